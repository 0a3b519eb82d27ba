"""Secrets come from references and never come out again by accident."""

import copy
import hashlib
import pickle
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from gateway.config.secret import REFERENCES, SECRET_BYTES_MAX, KeyDigest, Secret, resolve


def test_an_environment_variable_is_read() -> None:
    """White space around it, as editors leave it, does not count."""
    assert resolve("env:KEY", {"KEY": " sk-1\n"}) == "sk-1"


def test_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-2\n")
    assert resolve(f"file:{tmp_path}/key", {}) == "sk-2"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"two words", "does not hold one key"),
        (b"a\nb", "does not hold one key"),
        ("schlüssel".encode(), "does not hold one key"),
        (b"\xff\xfe", "is not text"),
        (b"x" * (SECRET_BYTES_MAX + 1), "is larger than"),
    ],
)
def test_a_file_that_holds_no_key_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    """A key goes into a header: what cannot stand there is refused at load, without being repeated."""
    file = tmp_path / "key"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        resolve(f"file:{file}", {})
    assert "words" not in str(caught.value)


@pytest.mark.parametrize("reference", ["sk-literal", "env:", "file:", "vault:x", ""])
def test_a_literal_is_refused_without_being_repeated(reference: str) -> None:
    with pytest.raises(ValueError, match="use env:NAME or file:PATH") as caught:
        resolve(reference, {})
    assert "sk-literal" not in str(caught.value)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="environment variable NOPE is not set"):
        resolve("env:NOPE", {})
    with pytest.raises(ValueError, match=f"file {tmp_path}/nope cannot be read: No such file"):
        resolve(f"file:{tmp_path}/nope", {})


def test_a_variable_of_any_length_is_not_a_key() -> None:
    with pytest.raises(ValueError, match="environment variable KEY holds more than 4096 characters"):
        resolve("env:KEY", {"KEY": "x" * (SECRET_BYTES_MAX + 1)})


def test_only_reveal_gives_the_value() -> None:
    secret = Secret("sk-3", "env:KEY")
    assert secret.reveal() == "sk-3"
    assert "sk-3" not in f"{secret} {secret!r} {[secret]} {vars(Secret)}"
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    with pytest.raises(TypeError):
        copy.copy(secret)


def test_of_a_presented_key_only_the_digest_stays() -> None:
    digest = KeyDigest("sk-4", "env:KEY")
    assert digest.sha256 == hashlib.sha256(b"sk-4").digest()
    with pytest.raises(TypeError):
        digest.reveal()
    assert "sk-4" not in "".join(str(getattr(digest, name)) for name in ("_value", "reference", "sha256"))


def test_secrets_are_compared_by_what_they_are() -> None:
    """Not by where they came from: a reload asks whether anything has changed."""
    for kind in (Secret, KeyDigest):
        assert kind("a", "env:A") == kind("a", "file:a")
        assert kind("a", "env:A") != kind("b", "env:A")
        assert kind("a", "env:A") != "a"
        assert len({kind("a", "env:A"), kind("a", "env:B"), kind("b", "env:A")}) == 2


def test_it_is_dumped_as_nothing_unless_references_are_asked_for() -> None:
    """Where it came from is for another process of this gateway alone; the value is for nobody."""
    adapter = TypeAdapter(Secret)
    secret = Secret("sk-1", "env:KEY")
    assert adapter.dump_json(secret) == b'"***"'
    assert adapter.dump_json(secret, context={REFERENCES: False}) == b'"***"'
    assert adapter.dump_json(secret, context={REFERENCES: True}) == b'"env:KEY"'
