"""Headers of GGUF files: what they say, and that nothing they say is believed too far."""

import contextlib
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from estimator import EstimatorError
from estimator.gguf_file import HEADER_BYTES_MAX, Skipped, read_header
from tests.estimator.gguf_bytes import F32, Q4_K, header, start, tensor, text, write


def test_metadata_and_tensors(tmp_path: Path) -> None:
    """Every kind of value; bytes of a tensor by its type's blocks."""
    metadata = {"a.text": "word", "a.count": 7, "a.long": 2**40, "a.flag": True, "a.share": 0.5, "a.list": [1, 2, 3]}
    tensors = [tensor("plain", (8, 4), F32), tensor("packed", (256, 2), Q4_K), tensor("one", ())]
    found = read_header(write(tmp_path / "m.gguf", metadata, tensors))
    assert dict(found.metadata) == {**metadata, "a.list": (1, 2, 3)}
    assert [(each.name, each.type, each.elements, each.bytes) for each in found.tensors] == [
        ("plain", "F32", 32, 128),
        ("packed", "Q4_K", 512, 288),
        ("one", "F16", 1, 2),
    ]


def test_vocabularies_are_counted_not_kept(tmp_path: Path) -> None:
    """Long lists of texts and of numbers."""
    metadata = {"words": [f"w{i}" for i in range(5000)], "marks": list(range(5000)), "few": ["a", "b"]}
    found = read_header(write(tmp_path / "m.gguf", metadata))
    assert dict(found.metadata) == {"words": Skipped(5000), "marks": Skipped(5000), "few": ("a", "b")}


def test_the_data_need_not_be_there_and_is_not_read(tmp_path: Path) -> None:
    """A header that was fetched alone is enough; a terabyte behind it costs nothing."""
    path = write(tmp_path / "m.gguf", {"a": 1}, [tensor("big", (2**20, 2**18))])
    assert read_header(path).tensors[0].bytes == 2**39
    with path.open("r+b") as file:
        file.truncate(2**40)
    assert read_header(path).tensors[0].bytes == 2**39


def test_a_split_file_is_read_whole(tmp_path: Path) -> None:
    """From any name of the first part; each part has tensors of its own."""
    first = write(tmp_path / "m-00001-of-00002.gguf", {"split.count": 2, "a": 1}, [tensor("x", (2,))])
    with pytest.raises(EstimatorError, match=r"m-00002-of-00002.gguf cannot be read: No such file"):
        read_header(first)
    write(tmp_path / "m-00002-of-00002.gguf", {"split.count": 2}, [tensor("y", (3,))])
    assert [each.name for each in read_header(first).tensors] == ["x", "y"]
    assert read_header(first).metadata["a"] == 1
    with pytest.raises(EstimatorError, match="one of 2 parts"):
        read_header(write(tmp_path / "renamed.gguf", {"split.count": 2}))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the start is cut off"),
        (b"PK\x03\x04" + bytes(100), "begins with b'PK"),
        (start(0, 0, version=1), "has version 1"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "little-endian"),
        (start(0, 2**60), "says 1,152,921,504,606,846,976 as the number of metadata entries"),
        (start(2**60, 0), "as the number of tensors"),
        (start(0, 1) + struct.pack("<Q", 2**60), "a metadata key says 1,152,921,504,606,846,976"),
        (start(0, 1) + text("a.b") + struct.pack("<IQ", 8, 2**60), "'a.b' says"),
        (start(0, 1) + text("a.b") + struct.pack("<IIQ", 9, 4, 2**60), "'a.b' says .* as the length of a list"),
        (start(0, 1) + text("a.b") + struct.pack("<IIQ", 9, 12, 2**25), "'a.b' goes beyond the 67,108,864 bytes"),
        (start(0, 1) + text("a.b") + struct.pack("<IIQ", 9, 8, 2**25), "'a.b' is cut off"),
        (start(0, 1) + text("a.b") + struct.pack("<IIQ", 9, 9, 1), "a list of value type 9"),
        (start(0, 1) + text("a.b") + struct.pack("<I", 99), "'a.b' has value type 99"),
        (start(0, 1) + text("a.b"), "'a.b' is cut off"),
        (start(1, 0) + text("t") + struct.pack("<I", 9), "tensor 't' says 9 as the number of dimensions"),
        (header({}, [tensor("t", (2**60,))]), "tensor 't' says .* as a dimension"),
        (header({}, [tensor("t", (2**40, 2**40))]), "elements"),
        (header({}, [tensor("t", (4,), 77)]), "tensor 't' has type 77"),
        (header({}, [tensor("t", (100,), Q4_K)]), "no multiple of the 256 of Q4_K"),
        (header({"a": 1}, [tensor("t", (4,))])[:-1], "tensor 't' is cut off"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    """File and field, in one sentence; and no memory is taken for what is not there."""
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    with pytest.raises(EstimatorError, match=rf"bad.gguf is no usable GGUF file: .*{words}"):
        read_header(path)


def test_reading_ends_at_a_bound(tmp_path: Path) -> None:
    """A list of millions of texts is followed no further than that."""
    path = tmp_path / "long.gguf"
    letters = 2**22
    with path.open("wb") as file:
        file.write(start(0, 1) + text("a.b") + struct.pack("<IIQ", 9, 8, 5000))
        for i in range(HEADER_BYTES_MAX // letters + 1):
            file.seek(i * (letters + 8) + 24 + 11 + 16)
            file.write(struct.pack("<Q", letters))
        file.truncate(2**30)
    with pytest.raises(EstimatorError, match="goes beyond"):
        read_header(path)


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    """The system's own reason."""
    with pytest.raises(EstimatorError, match=r"none.gguf cannot be read: No such file"):
        read_header(tmp_path / "none.gguf")


SOUND = header({"general.architecture": "llama", "a.list": [1, 2], "a.text": "x"}, [tensor("t", (4, 2))])


@settings(deadline=None, max_examples=300)
@given(place=st.integers(0, len(SOUND) - 1), piece=st.binary(min_size=1, max_size=9), end=st.integers(0, len(SOUND)))
def test_no_bytes_do_more_than_raise_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, place: int, piece: bytes, end: int
) -> None:
    """Anything written over any place, and the file cut off anywhere."""
    path = tmp_path_factory.getbasetemp() / "broken.gguf"
    path.write_bytes((SOUND[:place] + piece + SOUND[place + len(piece) :])[:end])
    with contextlib.suppress(EstimatorError):
        assert all(each.bytes >= 0 for each in read_header(path).tensors)


def test_types_are_those_of_the_format() -> None:
    """Against the format's own library, where it is installed."""
    gguf = pytest.importorskip("gguf")
    from estimator.gguf_file import _BLOCKS

    theirs = {kind.value: (kind.name, *sizes) for kind, sizes in gguf.GGML_QUANT_SIZES.items()}
    assert {number: theirs.get(number, known) for number, known in _BLOCKS.items()} == dict(_BLOCKS)


def test_a_file_of_the_format_s_own_library(tmp_path: Path) -> None:
    """Written by it, data and all: the same metadata and sizes come back."""
    gguf, numpy = pytest.importorskip("gguf"), pytest.importorskip("numpy")
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_block_count(3)
    writer.add_head_count_kv([2, 2, 4])
    writer.add_token_list([f"w{i}" for i in range(6000)])
    writer.add_tensor("a", numpy.zeros((8, 64), numpy.float16))
    packed = gguf.quantize(numpy.ones((4, 256), numpy.float32), gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("b", packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = read_header(tmp_path / "m.gguf")
    assert found.metadata["general.architecture"] == "llama"
    assert found.metadata["llama.attention.head_count_kv"] == (2, 2, 4)
    assert found.metadata["tokenizer.ggml.tokens"] == Skipped(6000)
    sizes = {each.name: (each.type, each.elements, each.bytes) for each in found.tensors}
    assert sizes == {"a": ("F16", 512, 1024), "b": ("Q8_0", 1024, packed.nbytes)}
