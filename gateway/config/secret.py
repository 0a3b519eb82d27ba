"""Secrets are given by reference and resolved once, at load; nothing here prints or dumps their value."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from pathlib import Path

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, SerializationInfo, ValidationInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

ENVIRON = "environ"
"""Key of the validation context that holds the environment which `env:` references read."""
REFERENCES = "references"
"""Key of the serialization context that asks for references instead of nothing."""
SECRET_BYTES_MAX = 4096
"""No provider's key comes near; a reference to the wrong file should not load it whole."""
TOKEN_LENGTH_MIN = 16
HIDDEN = "***"


class Secret:
    """A secret's value and the reference it came from. Only `reveal()` gives the value away."""

    __slots__ = ("_value", "reference")

    def __init__(self, value: str, reference: str) -> None:
        self._value = value
        self.reference = reference

    def reveal(self) -> str:
        """The value itself, for the one place that sends it."""
        return self._value

    def __eq__(self, other: object) -> bool:
        """Whether it is the same secret, whatever it was referred to by: a reload asks what has changed."""
        return isinstance(other, Secret) and hmac.compare_digest(self._digest(), other._digest())

    def __hash__(self) -> int:
        return hash(self._digest())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.reference!r})"

    def __str__(self) -> str:
        return HIDDEN

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a secret is not pickled")

    def _digest(self) -> bytes:
        return hashlib.sha256(self._value.encode()).digest()

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: object, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(
            cls._validate,
            serialization=core_schema.plain_serializer_function_ser_schema(cls._told, info_arg=True),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "string", "pattern": "^(env:[A-Za-z_][A-Za-z0-9_]*|file:.+)$"}

    def _told(self, info: SerializationInfo) -> str:
        """Where it came from, for another process of this gateway; nothing for anybody else."""
        return self.reference if (info.context or {}).get(REFERENCES) else HIDDEN

    @classmethod
    def _validate(cls, reference: object, info: ValidationInfo) -> Secret:
        if not isinstance(reference, str):
            raise ValueError("must be a reference to a secret: env:NAME or file:PATH")  # noqa: TRY004  # pydantic collects these
        environ: Mapping[str, str] = (info.context or {}).get(ENVIRON, {})
        return cls(resolve(reference, environ), reference)


class KeyDigest(Secret):
    """A key that callers present: only its SHA-256 is kept, the key itself is forgotten at load."""

    __slots__ = ("sha256",)

    def __init__(self, value: str, reference: str) -> None:
        super().__init__("", reference)
        self.sha256 = hashlib.sha256(value.encode()).digest()

    def reveal(self) -> str:
        """A digest cannot be turned back.

        Raises:
            TypeError: always.
        """
        raise TypeError("only the digest of this key is known")

    def _digest(self) -> bytes:
        return self.sha256


class AdminToken(KeyDigest):
    """What opens the admin port: one key for everything there, so it must not be one that is guessed."""

    __slots__ = ()

    def __init__(self, value: str, reference: str) -> None:
        if len(value) < TOKEN_LENGTH_MIN:
            raise ValueError(f"{reference} holds fewer than {TOKEN_LENGTH_MIN} characters: use openssl rand -hex 32")
        super().__init__(value, reference)


def resolve(reference: str, environ: Mapping[str, str]) -> str:
    """The secret behind `env:NAME` or `file:PATH`, without surrounding white space.

    Raises:
        ValueError: with a sentence that holds neither the secret nor a literal given in its place.
    """
    kind, _, name = reference.partition(":")
    if kind == "env" and name:
        if name not in environ:
            raise ValueError(f"environment variable {name} is not set")
        origin, value = f"environment variable {name}", environ[name].strip()
    elif kind == "file" and name:
        origin, value = f"file {name}", _read(Path(name)).strip()
    else:
        raise ValueError("a secret is never written here: use env:NAME or file:PATH")
    if not value:
        raise ValueError(f"{origin} is empty")
    if len(value) > SECRET_BYTES_MAX:
        raise ValueError(f"{origin} holds more than {SECRET_BYTES_MAX} characters")
    if not (value.isascii() and value.isprintable()) or " " in value:
        raise ValueError(f"{origin} does not hold one key: it has spaces, line breaks or non-ASCII characters")
    return value


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(SECRET_BYTES_MAX + 1)
        text = content.decode()
    except OSError as error:
        raise ValueError(f"file {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"file {path} is not text") from None
    if len(content) > SECRET_BYTES_MAX:
        raise ValueError(f"file {path} is larger than {SECRET_BYTES_MAX} bytes")
    return text
