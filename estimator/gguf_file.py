"""Reads the header of a GGUF file: its metadata and what each tensor is, never its data.

Format: "GGUF in details", versions 2 and 3, of the ggml project. All lengths come from the file and are distrusted:
no more than `HEADER_BYTES_MAX` are read, whatever it says.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from estimator.errors import EstimatorError

HEADER_BYTES_MAX = 64 * 2**20
"""The largest headers known hold a vocabulary of 260,000 words with merges: 16 MB."""
_TEXT_BYTES_MAX = 4 * 2**20
"""Chat templates are the longest texts, with up to 100 kB."""
_KEY_BYTES_MAX = 65_535
_ENTRIES_MAX, _TENSORS_MAX, _SPLITS_MAX = 65_536, 2**20, 4096
_KEPT_ITEMS_MAX = 4096
"""Lists per layer are kept; vocabularies are longer, and of them only the length is."""
_DIMENSIONS_MAX = 4
_ELEMENTS_MAX = 2**48

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _LIST = 8, 9
_BLOCKS: Mapping[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4),
    27: ("I64", 1, 8), 28: ("F64", 1, 8), 29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36),
}  # fmt: skip
"""Tensor types by ggml's numbers: name, elements per block, bytes per block."""
_SPLIT = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")


@dataclass(frozen=True, slots=True)
class Skipped:
    """A list that is too long to be kept."""

    items: int


Value = int | float | str | tuple[int | float | str, ...] | Skipped
"""Of one metadata entry."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor."""

    name: str
    type: str
    elements: int
    bytes: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a file says before its data."""

    metadata: Mapping[str, Value]
    tensors: tuple[Tensor, ...]


def read_header(path: Path) -> GgufHeader:
    """Read a file's header; of a split file the tensors of all its parts, which must stand beside the first.

    Raises:
        EstimatorError: naming file and field, where it cannot be read, ends early or states impossible sizes.
    """
    first = _read_one(path)
    parts = first.metadata.get("split.count", 1)
    if not isinstance(parts, int) or parts <= 1:
        return first
    name = _SPLIT.search(path.name)
    if name is None or int(name[2]) != parts or parts > _SPLITS_MAX:
        raise EstimatorError(f"{path} is one of {parts} parts ('split.count'), which its name does not number so.")
    stem = path.name[: name.start()]
    files = [path.with_name(f"{stem}-{i:05d}-of-{parts:05d}.gguf") for i in range(1, parts + 1)]
    headers = [_read_one(file) for file in files]
    return GgufHeader(headers[0].metadata, tuple(tensor for header in headers for tensor in header.tensors))


def _read_one(path: Path) -> GgufHeader:
    try:
        with path.open("rb") as file:
            return _Reader(file, path).header()
    except OSError as error:
        raise EstimatorError(f"{path} cannot be read: {error.strerror}.") from error


class _Reader:
    """Takes values one after the other, and knows how many bytes are left to take."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path, self._left = file, path, HEADER_BYTES_MAX
        self._field = "the start"

    def header(self) -> GgufHeader:
        magic = self._take(4)
        if magic != b"GGUF":
            raise self._wrong(f"begins with {magic!r}, not b'GGUF'")
        version = self._number("I")
        if version not in {2, 3}:
            raise self._wrong(f"has version {version}: only 2 and 3, in little-endian order, are known")
        tensors = self._count("Q", _TENSORS_MAX, "the number of tensors")
        entries = self._count("Q", _ENTRIES_MAX, "the number of metadata entries")
        metadata: dict[str, Value] = {}
        for _ in range(entries):
            self._field = "a metadata key"
            key = self._text(_KEY_BYTES_MAX)
            self._field = repr(key)
            metadata[key] = self._value(int(self._number("I")))
        return GgufHeader(metadata, tuple(self._tensor() for _ in range(tensors)))

    def _tensor(self) -> Tensor:
        self._field = "a tensor's name"
        name = self._text(_KEY_BYTES_MAX)
        self._field = f"tensor {name!r}"
        elements = 1
        for _ in range(self._count("I", _DIMENSIONS_MAX, "the number of dimensions")):
            elements *= self._count("Q", _ELEMENTS_MAX, "a dimension")
        if elements > _ELEMENTS_MAX:
            raise self._wrong(f"says {elements:,} elements")
        number = int(self._number("I"))
        self._take(8)  # where its data begins
        if number not in _BLOCKS:
            raise self._wrong(f"has type {number}, which is not known")
        kind, block, size = _BLOCKS[number]
        if elements % block:
            raise self._wrong(f"has {elements:,} elements, no multiple of the {block} of {kind}")
        return Tensor(name, kind, elements, elements // block * size)

    def _value(self, kind: int) -> Value:
        if kind == _TEXT:
            return self._text(_TEXT_BYTES_MAX)
        if kind in _SCALARS:
            return self._number(_SCALARS[kind])
        if kind != _LIST:
            raise self._wrong(f"has value type {kind}, which is not known")
        of = int(self._number("I"))
        items = self._count("Q", HEADER_BYTES_MAX, "the length of a list")
        if of == _TEXT:
            return self._texts(items)
        if of not in _SCALARS:
            raise self._wrong(f"is a list of value type {of}, which is not known")
        content = self._take(items * struct.calcsize(f"<{_SCALARS[of]}"))
        return struct.unpack(f"<{items}{_SCALARS[of]}", content) if items <= _KEPT_ITEMS_MAX else Skipped(items)

    def _texts(self, items: int) -> Value:
        if items <= _KEPT_ITEMS_MAX:
            return tuple(self._text(_TEXT_BYTES_MAX) for _ in range(items))
        for _ in range(items):
            self._take(self._count("Q", _TEXT_BYTES_MAX, "the length of a text"))
        return Skipped(items)

    def _text(self, most: int) -> str:
        return self._take(self._count("Q", most, "the length of a text")).decode("utf-8", "replace")

    def _count(self, kind: str, most: int, what: str) -> int:
        number = int(self._number(kind))
        if number > most:
            raise self._wrong(f"says {number:,} as {what}: more than {most:,}")
        return number

    def _number(self, kind: str) -> int | float:
        found: int | float = struct.unpack(f"<{kind}", self._take(struct.calcsize(f"<{kind}")))[0]
        return found

    def _take(self, size: int) -> bytes:
        if size > self._left:
            raise self._wrong(f"goes beyond the {HEADER_BYTES_MAX:,} bytes that are read of a header")
        content = self._file.read(size)
        if len(content) < size:
            raise self._wrong("is cut off: the file ends there")
        self._left -= size
        return content

    def _wrong(self, what: str) -> EstimatorError:
        return EstimatorError(f"{self._path} is no usable GGUF file: {self._field} {what}.")
