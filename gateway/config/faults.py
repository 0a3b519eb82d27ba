"""What is wrong with a configuration: a line per fault, with its key's full path and a remedy where one is known."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from gateway.config.schema import Config
from gateway.config.values import NAME

EX_CONFIG = 78
"""Exit status for a bad configuration (sysexits.h)."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault."""

    path: str
    """Keys and indices joined by dots, `backends.0.kind`; a file with its line where there is no key."""
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class ConfigError(Exception):
    """The configuration cannot be used; `faults` is never empty."""

    def __init__(self, *faults: Fault) -> None:
        super().__init__("\n".join(map(str, faults)))
        self.faults = faults


def faults_of(error: ValidationError, origins: Mapping[str, str]) -> list[Fault]:
    """The faults in pydantic's words made into ours. Values are not repeated, except numbers: one might be a secret.

    Args:
        error: of a validation against `Config`.
        origins: path of a key to the environment variable that set it.
    """
    faults = []
    details = error.errors(include_url=False)
    for detail in details:
        loc = detail["loc"]
        if detail["type"] == "too_short" and any(
            other["loc"][: len(loc)] == loc for other in details if other is not detail
        ):
            continue  # its items are at fault, not their number
        keys = [key for key in detail["loc"] if key != "[key]"]
        path = ".".join(map(str, keys)) or "the configuration"
        origin = next((name for set_path, name in origins.items() if f"{path}.".startswith(f"{set_path}.")), None)
        faults.append(Fault(path, _message(detail, keys) + (f" (set by {origin})" if origin else "")))
    return faults


def _message(detail: ErrorDetails, keys: list[int | str]) -> str:
    match detail["type"]:
        case "extra_forbidden":
            return "unknown key" + _suggestion(str(keys[-1]), keys_at(keys[:-1]))
        case "missing":
            return "this key is required"
        case "value_error":
            return str(detail["ctx"]["error"])
        case "string_pattern_mismatch" if detail["ctx"]["pattern"] == NAME:
            return "must be 1 to 63 characters of a-z, 0-9 and hyphen, with a hyphen neither first nor last"
        case "model_type" | "dict_type":
            return "must be a mapping of keys to values"
        case _:
            text = detail["msg"].replace("Input should", "must").replace("String should", "must")
            given = detail["input"]
            return f"{text}, not {given}" if isinstance(given, int | float) else text


def _suggestion(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key.lower(), known, n=1)
    return f"; did you mean '{close[0]}'?" if close else f"; known here: {', '.join(known)}" if known else ""


def keys_at(path: list[int | str]) -> list[str]:
    """The keys that may stand at a path; none where it leads to no section."""
    section: type[BaseModel] | None = Config
    for key in path:
        if section is None or isinstance(key, int):
            continue
        field = next((f for name, f in section.model_fields.items() if (f.alias or name) == key), None)
        section = None if field is None else next(sections_in(field.annotation), None)
    return [] if section is None else [field.alias or name for name, field in section.model_fields.items()]


def sections_in(annotation: object) -> Iterator[type[BaseModel]]:
    """The sections that a type is made of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from sections_in(part)
