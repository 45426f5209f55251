"""GGUF files become directories that answer as the file does; what would be converted wrongly is refused by name."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize
from gguf.quants import _type_traits
from safetensors.numpy import load_file

from runtime.models import QWEN_HALF, SMALL_MODEL, list_models, prepare, remove, verify
from runtime.models.convert import FAMILIES, convert_gguf, unpermuted
from runtime.models.gguf_file import read_gguf
from runtime.models.progress import report_nothing
from schemas.errors import SetupError
from tests.runtime.models.cutting import cut_gguf, write_gguf

TEXTS = [
    "def main() -> None:\n    print('Hello, world!')\n",
    "L'été, 3.14 и 你好 👋",
    "<|im_start|>user\nWho?<|im_end|>\n",
]
WIDTH, HEADS = 256, 4
VOCABULARY = [chr(code) for code in range(ord("!"), ord("~"))] + ["!!"]
FIELDS: dict[str, Any] = {
    "llama.context_length": 128,
    "llama.embedding_length": WIDTH,
    "llama.block_count": 1,
    "llama.feed_forward_length": WIDTH,
    "llama.attention.head_count": HEADS,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.tokens": VOCABULARY,
    "tokenizer.ggml.token_type": [1] * len(VOCABULARY),
    "tokenizer.ggml.merges": ["! !"],
    "tokenizer.ggml.bos_token_id": 0,
    "tokenizer.ggml.eos_token_id": 0,
}


def write_tiny(path: Path, *, kind: GGMLQuantizationType = GGMLQuantizationType.F32, **changes: Any) -> Path:
    """A GGUF file of the llama family with one tensor of ``kind``; ``changes`` are fields, with _ for a dot."""
    rng = np.random.default_rng(0)
    floats = {GGMLQuantizationType.F32: np.float32, GGMLQuantizationType.F16: np.float16}
    if kind in floats:
        down: Any = rng.standard_normal((WIDTH, WIDTH)).astype(floats[kind])
    else:  # bytes that make small finite numbers in whatever way they are read
        values, size = GGML_QUANT_SIZES[kind]
        down = (rng.integers(0, 0x3C, (WIDTH, WIDTH // values * size), np.uint8), kind)
    fields = {name: value for name, value in {**FIELDS, **changes}.items() if value is not None}
    square = rng.standard_normal((WIDTH, WIDTH)).astype(np.float32)
    ones = np.ones(WIDTH, np.float32)
    tensors = {
        "token_embd.weight": rng.standard_normal((len(VOCABULARY), WIDTH)).astype(np.float32),
        "output_norm.weight": ones,
        "blk.0.attn_q.weight": square,
        "blk.0.ffn_down.weight": down,
    }
    return write_gguf(path, "llama", fields, tensors)


pytestmark = pytest.mark.model  # a fixture chooses by name among those that fetch weights


@pytest.fixture(scope="session")
def cut_small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2 with 4 of its 30 blocks and 4,096 of its tokens."""
    folder = tmp_path_factory.mktemp("small")
    whole = folder / SMALL_MODEL.filename
    SMALL_MODEL.sources[0].fetch(whole, report=report_nothing)
    return cut_gguf(read_gguf(whole), folder / "cut.gguf", blocks=4, tokens=4096)


@pytest.fixture(scope="session")
def cut_half(half_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default model with 3 of its 24 blocks and 4,096 of its tokens: transformers takes a minute for the whole."""
    path = tmp_path_factory.mktemp("cut") / "cut.gguf"
    return cut_gguf(read_gguf(half_gguf), path, blocks=3, tokens=4096)


@pytest.fixture(params=["cut_small", "cut_half"])
def real_gguf(request: pytest.FixtureRequest) -> Path:
    path: Path = request.getfixturevalue(request.param)
    return path


def load_reference(gguf: Path) -> Any:
    """The model as transformers reads the file itself, in float32 (``from_pretrained`` would need accelerate)."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    config = AutoConfig.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    state = load_gguf_checkpoint(gguf, return_tensors=True, model_to_load=model)["tensors"]
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert set(missing) <= ({"lm_head.weight"} if config.tie_word_embeddings else set())
    assert not unexpected
    model.tie_weights()
    return model


def test_a_converted_file_has_the_logits_of_the_file(real_gguf: Path, tmp_path: Path) -> None:
    import mlx.core as mx
    import torch
    from mlx_lm.utils import load_model

    convert_gguf(real_gguf, tmp_path, report_nothing)
    tokens = np.random.default_rng(0).integers(0, 4096, (1, 48))
    model, _ = load_model(tmp_path)
    model.set_dtype(mx.float32)
    logits = np.array(model(mx.array(tokens)))
    reference = load_reference(real_gguf)
    with torch.no_grad():
        expected = reference(torch.tensor(tokens)).logits.numpy()
    error = np.abs(logits - expected).max() / np.abs(expected).max()
    assert error < 2e-3
    np.testing.assert_array_equal(logits.argmax(-1), expected.argmax(-1))


def test_a_converted_file_has_the_tokens_of_the_file(real_gguf: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    convert_gguf(real_gguf, tmp_path, report_nothing)
    ours = AutoTokenizer.from_pretrained(tmp_path)
    theirs = AutoTokenizer.from_pretrained(real_gguf.parent, gguf_file=real_gguf.name)
    for text in TEXTS:
        assert ours(text).input_ids == theirs(text).input_ids
    assert (ours.eos_token_id, ours.chat_template) == (theirs.eos_token_id, theirs.chat_template)


def test_the_cut_file_has_the_quantisations_of_the_real_one(cut_half: Path) -> None:
    kinds = {GGMLQuantizationType(tensor.quantisation).name for tensor in read_gguf(cut_half).tensors}
    assert kinds >= {"Q4_K", "Q6_K", "Q5_0", "Q8_0", "F32"}


@pytest.mark.parametrize(
    "kind", [GGMLQuantizationType.F32, GGMLQuantizationType.F16, *_type_traits], ids=lambda kind: str(kind.name)
)
def test_every_quantisation_is_converted(tmp_path: Path, kind: GGMLQuantizationType) -> None:
    gguf = read_gguf(write_tiny(tmp_path / "tiny.gguf", kind=kind))
    convert_gguf(gguf.path, tmp_path, report_nothing)
    (tensor,) = (tensor for tensor in gguf.tensors if "ffn_down" in tensor.name)
    values, size = GGML_QUANT_SIZES[kind]
    raw = np.fromfile(gguf.path, np.uint8, offset=tensor.start, count=WIDTH * WIDTH // values * size)
    expected = dequantize(raw.reshape(WIDTH, -1), kind).astype(np.float16)
    weights = load_file(tmp_path / "model.safetensors")
    assert np.isfinite(expected).all()
    np.testing.assert_array_equal(weights["model.layers.0.mlp.down_proj.weight"], expected)


def test_rotary_rows_are_put_in_split_half_order(tmp_path: Path) -> None:
    gguf = read_gguf(write_tiny(tmp_path / "tiny.gguf"))
    convert_gguf(gguf.path, tmp_path, report_nothing)
    (tensor,) = (tensor for tensor in gguf.tensors if "attn_q" in tensor.name)
    raw = np.fromfile(gguf.path, np.float32, offset=tensor.start, count=WIDTH * WIDTH).reshape(WIDTH, WIDTH)
    query = load_file(tmp_path / "model.safetensors")["model.layers.0.self_attn.q_proj.weight"]
    np.testing.assert_array_equal(query, unpermuted(raw, HEADS).astype(np.float16))


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("split.count", 3, "is one of 3 parts: join them"),
        ("llama.rope.scaling.type", "yarn", r"has llama\.rope\.scaling\.type = yarn, which is not converted"),
        ("llama.rope.scaling.factor", 4.0, r"rope\.scaling\.factor = 4\.0"),
        ("llama.rope.dimension_count", 32, r"rope\.dimension_count = 32"),
        ("llama.expert_count", 8, r"expert_count = 8"),
        ("llama.attention.head_count_kv", [4, 2], r"head_count_kv = \[4, 2\]; one number is expected"),
        ("llama.embedding_length", None, "embedding_length = None; one number is expected"),
        ("tokenizer.ggml.model", "rwkv", "has a tokenizer that is not converted"),
    ],
)
def test_a_file_that_would_be_converted_wrongly_is_refused(tmp_path: Path, field: str, value: Any, why: str) -> None:
    with pytest.raises(SetupError, match=why) as refusal:
        convert_gguf(write_tiny(tmp_path / "odd.gguf", **{field: value}), tmp_path, report_nothing)
    assert "\n" not in refusal.value.message


def test_another_family_is_refused_with_those_that_are_converted(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "odd.gguf", "mamba", {}, {})
    with pytest.raises(SetupError, match=f"is of architecture 'mamba'; converted are {', '.join(FAMILIES)}"):
        convert_gguf(path, tmp_path, report_nothing)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("blk.0.ssm_a.weight", r"has a tensor blk\.0\.ssm_a\.weight, .* supported are token_embd"),
        ("blk.0.attn_q.bias", r"has a tensor blk\.0\.attn_q\.bias, which llama models here do not have"),
        ("rope_freqs.weight", "scales its rotary embedding"),
    ],
)
def test_an_unknown_tensor_is_refused(tmp_path: Path, name: str, why: str) -> None:
    path = write_gguf(tmp_path / "odd.gguf", "llama", FIELDS, {name: np.ones(WIDTH, np.float32)})
    with pytest.raises(SetupError, match=why):
        convert_gguf(path, tmp_path, report_nothing)


def test_values_that_float16_cannot_hold_are_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "odd.gguf", "llama", FIELDS, {"output_norm.weight": np.full(WIDTH, 1e6, np.float32)})
    with pytest.raises(SetupError, match=r"output_norm\.weight has values that float16 cannot hold"):
        convert_gguf(path, tmp_path, report_nothing)


@pytest.mark.parametrize("size", [0, 3, 12, 200, 3000, -4096])
def test_a_damaged_file_is_refused(tmp_path: Path, size: int) -> None:
    path = write_tiny(tmp_path / "tiny.gguf")
    content = path.read_bytes()
    path.write_bytes(content[:size])
    with pytest.raises(SetupError, match=r"damaged or cut off|is no GGUF file|is cut off"):
        convert_gguf(path, tmp_path, report_nothing)


def test_a_file_of_another_kind_is_no_gguf(tmp_path: Path) -> None:
    path = tmp_path / "page.gguf"
    path.write_text("<html>" * 100)
    with pytest.raises(SetupError, match=r"is no GGUF file: it begins with b'<htm'"):
        convert_gguf(path, tmp_path, report_nothing)


# In the cache


def test_a_local_file_is_converted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, path = tmp_path / "cache", write_tiny(tmp_path / "mine.gguf")
    directory = prepare(str(path), cache_dir=cache)
    assert json.loads((directory / "config.json").read_text())["model_type"] == "llama"
    written = (directory / "model.safetensors").stat().st_mtime_ns
    monkeypatch.chdir(tmp_path)
    assert prepare("mine.gguf", cache_dir=cache) == directory, "one place however the path is written"
    assert (directory / "model.safetensors").stat().st_mtime_ns == written
    (line,) = (line for line in list_models(cache_dir=cache) if line.state == "ready")
    assert (line.name, line.source) == (str(path), f"file:{path}")
    assert [result.ok for result in verify([str(path)], cache_dir=cache)] == [True]


def test_a_local_file_that_changed_is_converted_again(tmp_path: Path) -> None:
    cache, path = tmp_path / "cache", write_tiny(tmp_path / "mine.gguf")
    before = (prepare(str(path), cache_dir=cache) / "config.json").read_text()
    write_tiny(path, **{"llama.context_length": 256})
    os.utime(path, ns=(1, 1))
    directory = prepare(str(path), cache_dir=cache)
    assert (directory / "config.json").read_text() != before
    assert len([line for line in list_models(cache_dir=cache) if line.state == "ready"]) == 1


def test_a_local_file_is_removed_from_the_cache_and_stays_where_it_is(tmp_path: Path) -> None:
    cache, path = tmp_path / "cache", write_tiny(tmp_path / "mine.gguf")
    directory = prepare(str(path), cache_dir=cache)
    path.rename(tmp_path / "moved.gguf")
    remove([str(path)], cache_dir=cache)
    assert not directory.exists()
    assert (tmp_path / "moved.gguf").is_file()
    with pytest.raises(SetupError, match="no GGUF file at"):
        prepare(str(path), cache_dir=cache)


def test_a_disk_without_room_for_the_conversion_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tiny(tmp_path / "mine.gguf")
    monkeypatch.setattr("runtime.models.convert.free_bytes", lambda folder: 1000)
    with pytest.raises(SetupError, match=r"needs 0 MB in .*, and 0 MB are free"):
        convert_gguf(path, tmp_path, report_nothing)


def test_the_default_model_is_what_its_file_says() -> None:
    directory = prepare(QWEN_HALF.name)
    config = json.loads((directory / "config.json").read_text())
    assert (config["num_hidden_layers"], config["tie_word_embeddings"], config["rope_theta"]) == (24, False, 1e6)
    weights = load_file(directory / "model.safetensors")
    assert weights["lm_head.weight"].shape == weights["model.embed_tokens.weight"].shape == (151_936, 896)
    assert "model.layers.23.self_attn.k_proj.bias" in weights
    assert "<|im_start|>" in json.loads((directory / "tokenizer_config.json").read_text())["chat_template"]
