"""Smaller GGUF files out of real ones, and files that are wrong in one point."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter

from runtime.models.gguf_file import GgufFile, TensorEntry

VOCABULARY_TENSORS = {"token_embd.weight", "output.weight"}


def cut_gguf(gguf: GgufFile, path: Path, *, blocks: int, tokens: int) -> Path:
    """Write a GGUF file with the first blocks and tokens of a real one; the quantised tensors are the real ones."""
    vocabulary = gguf.fields["tokenizer.ggml.tokens"][:tokens]
    fields: dict[str, Any] = {
        f"{gguf.family}.block_count": blocks,
        "tokenizer.ggml.tokens": vocabulary,
        "tokenizer.ggml.token_type": gguf.fields["tokenizer.ggml.token_type"][:tokens],
        "tokenizer.ggml.merges": keep_merges(gguf.fields["tokenizer.ggml.merges"], set(vocabulary)),
    }
    if f"{gguf.family}.vocab_size" in gguf.fields:
        fields[f"{gguf.family}.vocab_size"] = tokens
    for name in ("bos", "eos", "padding"):
        fields[f"tokenizer.ggml.{name}_token_id"] = 0
    kept = {
        tensor.name: read_rows(gguf, tensor, tokens if tensor.name in VOCABULARY_TENSORS else None)
        for tensor in gguf.tensors
        if not tensor.name.startswith("blk.") or int(tensor.name.split(".")[1]) < blocks
    }
    return write_gguf(path, gguf.family, {**gguf.fields, **fields}, kept)


def keep_merges(merges: list[str], vocabulary: set[str]) -> list[str]:
    """The merges of which both halves and the whole are in the vocabulary."""
    return [merge for merge in merges if {*merge.split(" "), merge.replace(" ", "")} <= vocabulary]


def read_rows(gguf: GgufFile, tensor: TensorEntry, most: int | None) -> tuple[Any, GGMLQuantizationType]:
    """A tensor's first rows as they are in the file."""
    kind = GGMLQuantizationType(tensor.quantisation)
    values, size = GGML_QUANT_SIZES[kind]
    rows, width = math.prod(tensor.shape[:-1]), tensor.shape[-1] // values * size
    rows = min(rows, most or rows)
    content = np.fromfile(gguf.path, np.uint8, count=rows * width, offset=tensor.start)
    floats = {GGMLQuantizationType.F32: np.float32, GGMLQuantizationType.F16: np.float16}
    if kind in floats:
        return content.view(floats[kind]).reshape(-1) if rows == 1 else content.view(floats[kind]).reshape(
            rows, -1
        ), kind
    return content.reshape(rows, width), kind


def write_gguf(path: Path, family: str, fields: Mapping[str, Any], tensors: Mapping[str, Any]) -> Path:
    """Write fields and tensors; a tensor is an array, or its bytes with their quantisation."""
    writer = GGUFWriter(path, family)
    for name, value in fields.items():
        if name != "general.architecture":
            add_field(writer, name, value)
    for name, tensor in tensors.items():
        data, kind = tensor if isinstance(tensor, tuple) else (tensor, None)
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_field(writer: GGUFWriter, name: str, value: Any) -> None:
    """Add one field by the type of its value."""
    match value:
        case bool():
            writer.add_bool(name, value)
        case int():
            writer.add_uint32(name, value)
        case float():
            writer.add_float32(name, value)
        case str():
            writer.add_string(name, value)
        case _:
            writer.add_array(name, value)
