"""Converts a GGUF file or a zip archive to a directory in Hugging Face layout, which MLX and transformers both read."""

import json
import math
import shutil
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from runtime.models.gguf_file import GgufFile, TensorEntry, read_gguf
from runtime.models.progress import ProgressReport
from runtime.models.store import free_bytes
from schemas.errors import SetupError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_COPY_BYTES = 8 * 1024**2
_CHUNK_VALUES = 2**18
"""Values that are dequantised at once: few enough for the processor's cache."""
_FLOAT16_BYTES = 2


@dataclass(frozen=True, kw_only=True)
class Family:
    """What differs between the architectures that are converted.

    Attributes:
        architecture: the class of transformers, for ``config.json``.
        biases: parts of a block that have a bias.
        permuted: whether GGUF holds the rows of q and k as interleaved rotary pairs (see :func:`unpermuted`).
    """

    architecture: str
    biases: frozenset[str] = frozenset()
    permuted: bool = False


FAMILIES = {
    "llama": Family(architecture="LlamaForCausalLM", permuted=True),
    "qwen2": Family(architecture="Qwen2ForCausalLM", biases=frozenset({"attn_q", "attn_k", "attn_v"})),
}
"""The families that are converted, by GGUF's name."""

_OUTSIDE_BLOCKS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
"""GGUF's names of tensors outside the blocks, with those of the Hugging Face layout."""

_IN_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""The same for the tensors of one block."""

_TOKENIZER_FIELDS = {
    "tokenizer_type": "model",
    "pre_tokenizer_type": "pre",
    "tokens": "tokens",
    "scores": "scores",
    "token_type": "token_type",
    "merges": "merges",
    "add_prefix_space": "add_space_prefix",
    "bos_token_id": "bos_token_id",
    "eos_token_id": "eos_token_id",
    "unk_token_id": "unknown_token_id",
    "pad_token_id": "padding_token_id",
}
"""Transformers' names of what describes a tokenizer, with GGUF's (after ``tokenizer.ggml.``)."""


def convert_gguf(path: Path, target: Path, report: ProgressReport) -> None:
    """Write a GGUF file as float16 safetensors with ``config.json`` and tokenizer into ``target``.

    Raises:
        SetupError: the file is damaged, one part of several, or of a kind that is not converted; the message names it.
    """
    gguf = read_gguf(path)
    check_convertible(gguf)
    _save_weights(gguf, target / "model.safetensors", report)
    (target / "config.json").write_text(json.dumps(build_config(gguf), indent=2, sort_keys=True) + "\n")
    _save_tokenizer(gguf, target)


def check_convertible(gguf: GgufFile) -> None:
    """Refuse what would be converted wrongly: other families, split files, scaled rotary embeddings.

    Raises:
        SetupError: the message names what it is.
    """
    name = gguf.path.name
    if int(gguf.fields.get("split.count", 1)) > 1:
        raise SetupError(
            f"{name} is one of {gguf.fields['split.count']} parts: join them with 'llama-gguf-split --merge'.",
            param="model",
        )
    if gguf.family not in FAMILIES:
        raise SetupError(
            f"{name} is of architecture '{gguf.family}'; converted are {', '.join(FAMILIES)}.", param="model"
        )
    if scaled := next((tensor.name for tensor in gguf.tensors if tensor.name.startswith("rope_f")), None):
        raise SetupError(f"{name} scales its rotary embedding ({scaled}), which is not converted.", param="model")
    width = _head_width(gguf)
    oddities = {
        "rope.scaling.type": gguf.field("rope.scaling.type", "none") != "none",
        "rope.scaling.factor": gguf.field("rope.scaling.factor", 1.0) not in (0.0, 1.0),
        "rope.scale_linear": gguf.field("rope.scale_linear", 1.0) not in (0.0, 1.0),
        "rope.dimension_count": gguf.field("rope.dimension_count", width) != width,
        "attention.key_length": gguf.field("attention.key_length", width) != width,
        "attention.value_length": gguf.field("attention.value_length", width) != width,
        "attention.sliding_window": bool(gguf.field("attention.sliding_window", 0)),
        "expert_count": bool(gguf.field("expert_count", 0)),
    }
    for field, is_odd in oddities.items():
        if is_odd:
            raise SetupError(
                f"{name} has {gguf.family}.{field} = {gguf.field(field)}, which is not converted: "
                "take a model without it, or its safetensors.",
                param="model",
            )


def build_config(gguf: GgufFile) -> dict[str, Any]:
    """``config.json`` of a model out of its GGUF metadata."""
    ids = {name: gguf.fields.get(f"tokenizer.ggml.{name}") for name in ("bos_token_id", "eos_token_id")}
    return {
        "architectures": [FAMILIES[gguf.family].architecture],
        "model_type": gguf.family,
        "torch_dtype": "float16",
        "hidden_size": _read_number(gguf, "embedding_length"),
        "intermediate_size": _read_number(gguf, "feed_forward_length"),
        "num_hidden_layers": _read_number(gguf, "block_count"),
        "num_attention_heads": _heads(gguf)["attn_q"],
        "num_key_value_heads": _heads(gguf)["attn_k"],
        "head_dim": _head_width(gguf),
        "rms_norm_eps": _read_number(gguf, "attention.layer_norm_rms_epsilon"),
        "rope_theta": gguf.field("rope.freq_base", 10000.0),
        "max_position_embeddings": _read_number(gguf, "context_length"),
        "vocab_size": len(gguf.fields["tokenizer.ggml.tokens"]),
        "tie_word_embeddings": all(tensor.name != "output.weight" for tensor in gguf.tensors),
        "hidden_act": "silu",
        **{name: value for name, value in ids.items() if value is not None},
    }


def unpermuted(rows: "NDArray[Any]", heads: int) -> "NDArray[Any]":
    """Rows of a q or k projection in the order of split-half rotary embedding.

    GGUF stores each head's rows as interleaved rotary pairs ``(d/2, 2)``; the Hugging Face layout has the first
    members of all pairs, then the second ones. ``rows`` is ``(heads * d, inputs)``.
    """
    width = rows.shape[0] // heads
    pairs = rows.reshape(heads, width // 2, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def _read_number(gguf: GgufFile, name: str) -> Any:
    value = gguf.field(name)
    if value is None or isinstance(value, list):
        raise SetupError(f"{gguf.path.name} has {gguf.family}.{name} = {value}; one number is expected.", param="model")
    return value


def _heads(gguf: GgufFile) -> dict[str, int]:
    heads = int(_read_number(gguf, "attention.head_count"))
    has_groups = gguf.field("attention.head_count_kv") is not None
    return {"attn_q": heads, "attn_k": int(_read_number(gguf, "attention.head_count_kv")) if has_groups else heads}


def _head_width(gguf: GgufFile) -> int:
    return int(_read_number(gguf, "embedding_length")) // _heads(gguf)["attn_q"]


def _save_weights(gguf: GgufFile, path: Path, report: ProgressReport) -> None:
    """Write float16 safetensors, a few rows at a time, so that no more than those are in memory."""
    import numpy as np

    header, total = _plan_safetensors({_convert_name(gguf, tensor.name): tensor.shape for tensor in gguf.tensors})
    if (free := free_bytes(path.parent)) < total:
        raise SetupError(
            f"{gguf.path.name} needs {total / 1e6:.0f} MB in {path.parent}, and {free / 1e6:.0f} MB are free: "
            "free some space, or set KIKI_CACHE_DIR elsewhere.",
            param="model",
        )
    content = np.memmap(gguf.path, np.uint8, "r")
    done = 0
    with path.open("wb") as file:
        file.write(header)
        for tensor in gguf.tensors:
            for values in _read_values(gguf, tensor, content):
                file.write(values.data)
                done += values.nbytes
                report("convert", done, total)


def _read_values(gguf: GgufFile, tensor: TensorEntry, content: "NDArray[Any]") -> Iterator["NDArray[Any]"]:
    """A tensor as float16, a few rows at a time; q and k of a permuted family as a whole."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        kind = GGMLQuantizationType(tensor.quantisation)
    except ValueError as error:
        raise SetupError(f"{gguf.path.name}: {tensor.name} has an unknown quantisation: {error}.") from error
    width, count = tensor.shape[-1], math.prod(tensor.shape[:-1])
    block_values, block_bytes = GGML_QUANT_SIZES[kind]
    row_bytes = width // block_values * block_bytes
    if tensor.start + count * row_bytes > content.size:
        raise SetupError(f"{gguf.path} is cut off: {tensor.name} ends behind the end of the file.", param="model")
    rows = content[tensor.start : tensor.start + count * row_bytes].reshape(count, row_bytes)
    part = tensor.name.split(".")[-2]
    if FAMILIES[gguf.family].permuted and part in (heads := _heads(gguf)):
        yield unpermuted(_dequantize(rows, kind, tensor.name), heads[part])
        return
    step = max(1, _CHUNK_VALUES // width)
    for first in range(0, count, step):
        yield _dequantize(rows[first : first + step], kind, tensor.name)


def _dequantize(rows: "NDArray[Any]", kind: Any, name: str) -> "NDArray[Any]":
    import numpy as np
    from gguf import dequantize

    try:
        with np.errstate(over="raise"):
            values: NDArray[Any] = dequantize(rows, kind).astype(np.float16)
    except NotImplementedError as error:
        raise SetupError(f"{name} is quantised as {kind.name}, which cannot be converted: {error}.") from error
    except FloatingPointError as error:
        raise SetupError(f"{name} has values that float16 cannot hold.") from error
    return values


def _plan_safetensors(shapes: dict[str, tuple[int, ...]]) -> tuple[bytes, int]:
    """The head of a float16 safetensors file with these tensors in this order, and the bytes of their values."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    place = 0
    for name, shape in shapes.items():
        end = place + math.prod(shape) * _FLOAT16_BYTES
        entries[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [place, end]}
        place = end
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text, place


def _convert_name(gguf: GgufFile, name: str) -> str:
    stem, _, kind = name.rpartition(".")
    if stem.startswith("blk."):
        _, layer, part = stem.split(".", 2)
        if part in _IN_BLOCK and (kind == "weight" or (kind == "bias" and part in FAMILIES[gguf.family].biases)):
            return f"model.layers.{layer}.{_IN_BLOCK[part]}.{kind}"
    elif stem in _OUTSIDE_BLOCKS and kind == "weight":
        return f"{_OUTSIDE_BLOCKS[stem]}.{kind}"
    raise SetupError(
        f"{gguf.path.name} has a tensor {name}, which {gguf.family} models here do not have: "
        f"supported are {', '.join((*_OUTSIDE_BLOCKS, *_IN_BLOCK))}.",
        param="model",
    )


def _save_tokenizer(gguf: GgufFile, target: Path) -> None:
    """Hand the vocabulary that was read once to transformers' own converter."""
    from transformers import PreTrainedTokenizerFast
    from transformers.integrations.gguf import convert_gguf_tokenizer

    ggml = {name.removeprefix("tokenizer.ggml."): value for name, value in gguf.fields.items()}
    description = {name: ggml[field] for name, field in _TOKENIZER_FIELDS.items() if field in ggml}
    try:
        backend, _ = convert_gguf_tokenizer(gguf.family, description)
    except (ValueError, KeyError) as error:
        raise SetupError(f"{gguf.path.name} has a tokenizer that is not converted: {error}.", param="model") from error
    special = {
        f"{name}_token": description["tokens"][index]
        for name in ("bos", "eos", "unk", "pad")
        if (index := description.get(f"{name}_token_id")) is not None
    }
    template = gguf.fields.get("tokenizer.chat_template")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=int(_read_number(gguf, "context_length")),
        chat_template=template,
        **special,
    )
    tokenizer.save_pretrained(target)
    path = target / "tokenizer_config.json"
    config = json.loads(path.read_text())
    if template is not None:
        config["chat_template"] = template
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def extract_archive(archive: Path, target: Path, report: ProgressReport) -> None:
    """Extract a zip archive without its top folder into ``target``.

    Raises:
        SetupError: it is no zip archive.
    """
    try:
        with zipfile.ZipFile(archive) as bundle:
            entries = bundle.infolist()
            total = sum(entry.file_size for entry in entries)
            done = 0
            for entry in entries:
                _extract_entry(bundle, entry, target)
                done += entry.file_size
                report("extract", done, total)
    except zipfile.BadZipFile as error:
        raise SetupError(f"{archive} is not a zip archive: {error}.") from error


def _extract_entry(bundle: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path) -> None:
    inner = PurePosixPath(entry.filename).parts[1:]
    if entry.is_dir() or not inner or ".." in inner or inner[-1] == "desktop.ini":
        return
    path = target.joinpath(*inner)
    path.parent.mkdir(parents=True, exist_ok=True)
    with bundle.open(entry) as source, path.open("wb") as sink:
        shutil.copyfileobj(source, sink, _COPY_BYTES)
