"""What a single field may hold: readers for the fields that matter here, checks for those that only pass through."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

import msgspec
from msgspec import Raw

from gateway.api.schema_patterns import require_small_patterns
from gateway.api.strict_json import Json, StrictReader, shown
from gateway.errors import ApiError, invalid_value, unsupported_parameter

Check: TypeAlias = Callable[[str, Raw, StrictReader], None]
"""Raises `ApiError` (400) unless the named field may hold the value."""

_NULL = b"null"
_BOOLEANS = {b"true": True, b"false": False, _NULL: None}
_TEXT = msgspec.json.Decoder(str)
_NUMBER_STARTS = b"-0123456789"
_INTEGER_DIGITS_MAX = 19


def is_null(raw: Raw) -> bool:
    """Whether the value is `null`, which stands for "not given" in every optional field."""
    return bytes(raw) == _NULL


def is_text(raw: Raw) -> bool:
    """Whether the value is a string."""
    return memoryview(raw)[0] == ord('"')


def read_text(name: str, raw: Raw) -> str:
    """A string.

    Raises:
        ApiError: 400 `invalid_value` for anything else.
    """
    if not is_text(raw):
        raise invalid_value(name, "expected a string")
    return _TEXT.decode(raw)


def read_bool(name: str, raw: Raw | None) -> bool | None:
    """A boolean, or None where none is given.

    Raises:
        ApiError: 400 `invalid_value` for anything else.
    """
    if raw is None:
        return None
    data = bytes(raw)
    if data not in _BOOLEANS:
        raise invalid_value(name, "expected a boolean")
    return _BOOLEANS[data]


def read_int(name: str, raw: Raw | None, low: int, high: int) -> int | None:
    """An integer written as one (no fraction, no exponent), or None where none is given.

    Raises:
        ApiError: 400 `invalid_value` for anything else or outside of low..high.
    """
    if raw is None:
        return None
    data = bytes(raw)
    if data == _NULL:
        return None
    digits = data.removeprefix(b"-")
    if digits.isdigit() and len(digits) <= _INTEGER_DIGITS_MAX and low <= (value := int(data)) <= high:
        return value
    raise invalid_value(name, f"expected an integer from {low} to {high}")


def anything(name: str, raw: Raw, reader: StrictReader) -> None:
    """Any JSON value that is strict in itself."""
    if memoryview(raw)[0] in b"[{":
        reader.tree(name, raw)
    elif memoryview(raw)[0] in _NUMBER_STARTS:
        number(-1e308, 1e308)(name, raw, reader)


def boolean(name: str, raw: Raw, _reader: StrictReader) -> None:
    """true, false or null."""
    read_bool(name, raw)


def integer(low: int, high: int) -> Check:
    """An integer from low to high, or null."""

    def check(name: str, raw: Raw, _reader: StrictReader) -> None:
        read_int(name, raw, low, high)

    return check


def number(low: float, high: float) -> Check:
    """A finite number from low to high, or null."""

    def check(name: str, raw: Raw, _reader: StrictReader) -> None:
        data = bytes(raw)
        if data != _NULL and not (data[0] in _NUMBER_STARTS and low <= float(data) <= high):
            raise invalid_value(name, f"expected a number from {low:g} to {high:g}")

    return check


def text(bytes_max: int = 1_024) -> Check:
    """A string, or null. `bytes_max` counts it as it stands in the JSON."""

    def check(name: str, raw: Raw, _reader: StrictReader) -> None:
        if not is_text(raw) and not is_null(raw):
            raise invalid_value(name, "expected a string")
        _require_size(name, raw, bytes_max + 2)

    return check


def mapping(bytes_max: int = 65_536) -> Check:
    """An object of any content, or null."""

    def check(name: str, raw: Raw, reader: StrictReader) -> None:
        if is_null(raw):
            return
        _require_size(name, raw, bytes_max)
        if not isinstance(reader.tree(name, raw), dict):
            raise invalid_value(name, "expected an object")

    return check


def text_or_mapping(name: str, raw: Raw, reader: StrictReader) -> None:
    """A word such as "auto", or an object that says more."""
    if is_text(raw):
        text()(name, raw, reader)
    else:
        mapping()(name, raw, reader)


def objects(count_max: int, bytes_max: int) -> Check:
    """An array of at most `count_max` objects of any content, each at most `bytes_max` long; or null."""

    def check(name: str, raw: Raw, reader: StrictReader) -> None:
        if is_null(raw):
            return
        _require_size(name, raw, count_max * bytes_max)
        items = reader.tree(name, raw)
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise invalid_value(name, "expected an array of objects")
        _require_count(name, items, count_max)
        if len(raw) > bytes_max and any(len(msgspec.json.encode(item)) > bytes_max for item in items):
            raise invalid_value(name, f"one of them is longer than {bytes_max:,} bytes")
        require_small_patterns(name, bytes(raw), items)

    return check


def words(allowed: Iterable[str]) -> Check:
    """An array of some of these words, or null."""
    known = frozenset(allowed)

    def check(name: str, raw: Raw, reader: StrictReader) -> None:
        items = None if is_null(raw) else reader.tree(name, raw)
        if items is None:
            return
        if not isinstance(items, list) or not all(isinstance(item, str) and item in known for item in items):
            raise invalid_value(name, f"expected an array of {', '.join(sorted(known))}")

    return check


def one_of(allowed: Iterable[str]) -> Check:
    """One of these words, or null."""
    known = frozenset(msgspec.json.encode(word) for word in allowed) | {_NULL}

    def check(name: str, raw: Raw, _reader: StrictReader) -> None:
        if bytes(raw) not in known:
            raise invalid_value(name, f"expected one of {', '.join(sorted(allowed))}")

    return check


def stop(name: str, raw: Raw, reader: StrictReader) -> None:
    """Up to 16 strings that end the output, or one."""
    if is_text(raw) or is_null(raw):
        text()(name, raw, reader)
        return
    items = reader.tree(name, raw)
    if not isinstance(items, list) or not all(isinstance(item, str) and len(item) <= 1_024 for item in items):
        raise invalid_value(name, "expected a string or an array of strings of up to 1,024 characters")
    _require_count(name, items, 16)


def token_ids(name: str, raw: Raw, reader: StrictReader) -> None:
    """Up to 128 token ids."""
    items = None if is_null(raw) else reader.tree(name, raw)
    if items is None:
        return
    if not isinstance(items, list) or not all(type(item) is int and 0 <= item < 2**31 for item in items):
        raise invalid_value(name, "expected an array of token ids")
    _require_count(name, items, 128)


def logit_bias(name: str, raw: Raw, reader: StrictReader) -> None:
    """Up to 1,024 token ids, as strings, with a number from -100 to 100 each."""
    items = None if is_null(raw) else reader.tree(name, raw)
    if items is None:
        return
    if not isinstance(items, dict):
        raise invalid_value(name, "expected an object")
    _require_count(name, items, 1_024)
    for token, bias in items.items():
        if not (token.isascii() and token.isdigit() and len(token) <= 10):
            raise invalid_value(name, "its keys must be token ids")
        if type(bias) not in (int, float) or not -100 <= float(str(bias)) <= 100:
            raise invalid_value(name, "its values must be numbers from -100 to 100")


def response_format(name: str, raw: Raw, reader: StrictReader) -> None:
    """Plain text, JSON, or JSON by a schema."""
    if is_null(raw):
        return
    _require_size(name, raw, 65_536)
    value = reader.tree(name, raw)
    if not isinstance(value, dict) or value.get("type") not in ("text", "json_object", "json_schema"):
        raise invalid_value(name, "its type must be text, json_object or json_schema")
    require_small_patterns(name, bytes(raw), value)


def read_options(name: str, raw: Raw, reader: StrictReader, known: frozenset[str]) -> dict[str, bool | None]:
    """An object of booleans with known names.

    Raises:
        ApiError: 400 for anything else.
    """
    options: dict[str, bool | None] = {}
    for option, value in reader.object(name, raw).items():
        if option not in known:
            raise unknown(f"{name}.{option}")
        options[option] = read_bool(name, value)
    return options


_TEMPLATE_ARGUMENTS = """
    chat_template conversation documents max_length messages padding return_dict return_tensors tokenize
    tokenizer_kwargs tools truncation"""
_TEMPLATE_RESERVED = frozenset(_TEMPLATE_ARGUMENTS.split())


def chat_template_kwargs(name: str, raw: Raw, reader: StrictReader) -> None:
    """Switches of a chat template, as `enable_thinking`; never the template itself or arguments of the tokenizer."""
    if is_null(raw):
        return
    _require_size(name, raw, 4_096)
    switches = reader.tree(name, raw)
    if not isinstance(switches, dict):
        raise invalid_value(name, "expected an object")
    for switch, value in switches.items():
        if switch in _TEMPLATE_RESERVED:
            raise unknown(f"{name}.{switch}")
        if isinstance(value, list | dict):
            raise invalid_value(name, "its values must be plain")


def unknown(name: str) -> ApiError:
    """The answer to a field that no rule knows."""
    return unsupported_parameter(shown(name))


def _require_size(name: str, raw: Raw, bytes_max: int) -> None:
    if len(raw) > bytes_max:
        raise invalid_value(name, f"it is longer than {bytes_max:,} bytes")


def _require_count(name: str, items: list[Json] | dict[str, Json], count_max: int) -> None:
    if len(items) > count_max:
        raise invalid_value(name, f"at most {count_max:,} are allowed")
