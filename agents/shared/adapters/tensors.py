"""Reads a safetensors file one tensor at a time, as float32; bfloat16, which NumPy lacks, is widened here.

Not safetensors' own reader: for NumPy it knows no bfloat16, and an adapter of 2 GB need not be in memory at once.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.shared.adapters.folders import read_header

_TYPES: dict[str, Any] = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}


class TensorFile:
    """The tensors of one file by name; only the header is kept.

    Raises:
        ValueError: it is no whole safetensors file, or a tensor is of a type that an adapter does not have.
        OSError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.nbytes = path.stat().st_size
        header = read_header(path)
        with path.open("rb") as file:
            self._start = 8 + int.from_bytes(file.read(8), "little")
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.types: dict[str, str] = {}
        self._begins: dict[str, int] = {}
        for name, entry in header.items():
            try:
                kind, shape, (begin, end) = str(entry["dtype"]), tuple(map(int, entry["shape"])), entry["data_offsets"]
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"the header's entry for {name} is malformed") from error
            if kind not in _TYPES:
                raise ValueError(f"{name} is of type {kind}; known are {', '.join(_TYPES)}")
            if end - begin != math.prod(shape) * np.dtype(_TYPES[kind]).itemsize or self._start + end > self.nbytes:
                raise ValueError(f"the file ends before {name} does, or its length is wrong")
            self.shapes[name], self.types[name], self._begins[name] = shape, kind, begin

    def read(self, name: str) -> NDArray[np.float32]:
        """One tensor as float32."""
        kind, shape = self.types[name], self.shapes[name]
        with self.path.open("rb") as file:
            file.seek(self._start + self._begins[name])
            stored: NDArray[Any] = np.fromfile(file, dtype=_TYPES[kind], count=math.prod(shape))
        if kind == "BF16":  # the upper half of a float32
            stored = (stored.astype(np.uint32) << 16).view(np.float32)
        return stored.astype(np.float32, copy=False).reshape(shape)
