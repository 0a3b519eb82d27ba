"""Writes headers of GGUF files, byte by byte: sound ones and broken ones."""

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

F32, F16, Q4_0, Q4_K = 0, 1, 2, 12


def text(value: str) -> bytes:
    """Its length and its letters."""
    letters = value.encode()
    return struct.pack("<Q", len(letters)) + letters


def value(content: object) -> bytes:
    """A metadata value with its type: lists by the type of their first item."""
    if isinstance(content, list):
        whole = b"".join(value(item)[4:] for item in content)
        return struct.pack("<I", 9) + value(content[0])[:4] + struct.pack("<Q", len(content)) + whole
    if isinstance(content, str):
        return struct.pack("<I", 8) + text(content)
    if isinstance(content, bool):
        return struct.pack("<I?", 7, content)
    if isinstance(content, float):
        return struct.pack("<If", 6, content)
    assert isinstance(content, int)
    return struct.pack("<II", 4, content) if content < 2**32 else struct.pack("<IQ", 10, content)


def tensor(name: str, shape: Sequence[int], kind: int = F16) -> bytes:
    """What is said of one tensor."""
    sides = b"".join(struct.pack("<Q", side) for side in shape)
    return text(name) + struct.pack("<I", len(shape)) + sides + struct.pack("<IQ", kind, 0)


def start(tensors: int, entries: int, version: int = 3) -> bytes:
    """The first 24 bytes."""
    return b"GGUF" + struct.pack("<IQQ", version, tensors, entries)


def header(metadata: Mapping[str, object], tensors: Sequence[bytes] = (), version: int = 3) -> bytes:
    """A whole header."""
    entries = b"".join(text(key) + value(content) for key, content in metadata.items())
    return start(len(tensors), len(metadata), version) + entries + b"".join(tensors)


def write(path: Path, metadata: Mapping[str, object], tensors: Sequence[bytes] = ()) -> Path:
    """A file with nothing but a header."""
    path.write_bytes(header(metadata, tensors))
    return path
