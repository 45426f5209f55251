"""Reads what a GGUF file says of itself: metadata and the table of tensors, without their data.

The ``gguf`` package makes a NumPy array of every string: 17 s for a vocabulary of 150,000 tokens, which take less than
one here. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.errors import SetupError

_VERSIONS = (2, 3)
_ALIGNMENT = 32
_STRING, _ARRAY = 8, 9
_SCALARS = dict(enumerate(("B", "b", "H", "h", "I", "i", "f", "?"))) | {10: "Q", 11: "q", 12: "d"}
"""struct's letter of each type of value that has a fixed size."""


@dataclass(frozen=True)
class TensorEntry:
    """One tensor: its shape with rows first, its quantisation (ggml's number), where its data begins (in bytes)."""

    name: str
    shape: tuple[int, ...]
    quantisation: int
    start: int


@dataclass(frozen=True)
class GgufFile:
    """What a GGUF file says of itself."""

    path: Path
    fields: dict[str, Any]
    tensors: tuple[TensorEntry, ...]

    @property
    def family(self) -> str:
        """The architecture that the file names; empty without one."""
        return str(self.fields.get("general.architecture", ""))

    def field(self, name: str, default: Any = None) -> Any:
        """The value of ``<family>.<name>``; ``default`` where the file has none."""
        return self.fields.get(f"{self.family}.{name}", default)


def read_gguf(path: Path) -> GgufFile:
    """Read metadata and tensor table.

    Raises:
        SetupError: it is no GGUF file of a version that is read here, or it is cut off.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _Cursor(content).read_file(path)
    except (struct.error, UnicodeDecodeError, KeyError, MemoryError, OverflowError) as error:
        raise SetupError(f"{path} is damaged or cut off: its GGUF header does not end.", param="model") from error
    except ValueError as error:  # an empty file cannot be mapped
        raise SetupError(f"{path} is no GGUF file: {error}.", param="model") from error
    except OSError as error:
        raise SetupError(f"{path} cannot be read: {error.strerror or error}.", param="model") from error


class _Cursor:
    """A place in the file that moves on with every value."""

    def __init__(self, content: mmap.mmap) -> None:
        self.content = content
        self.place = 0

    def read_file(self, path: Path) -> GgufFile:
        magic, version = self.unpack("4sI")
        if magic != b"GGUF" or version not in _VERSIONS:
            raise ValueError(f"it begins with {magic!r}, version {version}; expected b'GGUF', version 2 or 3")
        tensor_count, field_count = self.unpack("QQ")
        fields = {self.text(): self.value(*self.unpack("I")) for _ in range(field_count)}
        table = [self.entry() for _ in range(tensor_count)]
        alignment = fields.get("general.alignment", _ALIGNMENT)
        data = (self.place + alignment - 1) // alignment * alignment
        tensors = tuple(TensorEntry(name, shape, kind, data + offset) for name, shape, kind, offset in table)
        return GgufFile(path=path, fields=fields, tensors=tensors)

    def unpack(self, layout: str) -> tuple[Any, ...]:
        values = struct.unpack_from(f"<{layout}", self.content, self.place)
        self.place += struct.calcsize(f"<{layout}")
        return values

    def text(self) -> str:
        (length,) = self.unpack("Q")
        start, self.place = self.place, self.place + length
        if self.place > len(self.content):
            raise struct.error
        return self.content[start : self.place].decode("utf-8")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            return self.unpack(_SCALARS[kind])[0]
        item, count = self.unpack("IQ")
        if item in _SCALARS:
            return list(self.unpack(f"{count}{_SCALARS[item]}"))
        return [self.value(item) for _ in range(count)]

    def entry(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self.text()
        (rank,) = self.unpack("I")
        shape = tuple(reversed(self.unpack(f"{rank}Q")))
        quantisation, offset = self.unpack("IQ")
        return name, shape, quantisation, offset
