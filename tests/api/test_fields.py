"""Each rule for a field takes the edges of its range and refuses what lies beyond."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given, strategies as st
from msgspec import Raw

from gateway.api import fields as f
from gateway.api.strict_json import StrictReader
from gateway.errors import ApiError


def raw(text: str) -> Raw:
    return msgspec.json.decode(f"[{text}]".encode(), type=list[Raw])[0]


def takes(check: f.Check, text: str) -> bool:
    try:
        check("x", raw(text), StrictReader())
    except ApiError:
        return False
    return True


@given(st.integers())
def test_integers_are_read_within_their_range(value: int) -> None:
    """Whatever their size."""
    if -5 <= value <= 5:
        assert f.read_int("x", raw(str(value)), -5, 5) == value
    else:
        with pytest.raises(ApiError, match="from -5 to 5"):
            f.read_int("x", raw(str(value)), -5, 5)


@pytest.mark.parametrize("text", ["1.0", "1e0", '"1"', "true", "[]", "{}"])
def test_what_is_not_written_as_an_integer_is_none(text: str) -> None:
    """Readers differ on whether 1.0 is one."""
    with pytest.raises(ApiError):
        f.read_int("x", raw(text), 0, 5)


def test_what_is_not_given_reads_as_none() -> None:
    """A missing field and null alike."""
    assert f.read_int("x", None, 0, 1) is f.read_int("x", raw("null"), 0, 1) is None
    assert f.read_bool("x", None) is f.read_bool("x", raw("null")) is None


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**400), 10**400))
def test_numbers_are_checked_against_their_range(value: float) -> None:
    """Integers too, of any length."""
    assert takes(f.number(-2, 2), str(value)) == (-2 <= value <= 2)


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (f.boolean, ["true", "false", "null"], ["1", '"true"']),
        (f.integer(-1, 3), ["-1", "3", "null", "-0"], ["-2", "4"]),
        (f.text(3), ['"abc"', "null", '""'], ['"abcd"', "1"]),
        (f.mapping(20), ["{}", "null", '{"a":[1]}'], ["[]", '{"a":"xxxxxxxxxxxxxxxx"}']),
        (f.text_or_mapping, ['"auto"', "{}", "null"], ["1", "[]", json.dumps("x" * 2_000)]),
        (f.objects(2, 20), ["[]", "[{},{}]", "null", '[{"a":1},{"b":1},{}]'[:-4] + "]"], ["[{},{},{}]", "{}", "[1]"]),
        (f.objects(2, 20), ['[{"a":"xxxx"},{"a":1}]'], ['[{"a":"xxxxxxxxxxxxxxxxxx"}]']),
        (f.words("ab"), ['["a","b"]', "[]", "null"], ['["c"]', '"a"', "[[]]"]),
        (f.one_of(["a", "b"]), ['"a"', "null"], ['"c"', "1", '["a"]']),
        (f.stop, ['"x"', "null", "[]", json.dumps(["x"] * 16)], [json.dumps(["x"] * 17), "1", "[null]"]),
        (f.token_ids, ["[]", "null", "[0,2147483647]"], ["[-1]", "[1.0]", "[true]", json.dumps([1] * 129)]),
        (f.logit_bias, ["{}", '{"1":-100,"2":1.5}'], ['{"-1":1}', '{"1":101}', '{"1":null}', '{"12345678901":1}']),
        (f.response_format, ["null", '{"type":"text"}', '{"type":"json_schema"}'], ["{}", '{"type":["text"]}', '"x"']),
        (f.chat_template_kwargs, ["{}", "null", '{"enable_thinking":true}'], ['{"tools":1}', '{"a":[]}', "[]"]),
        (f.anything, ["1", '"x"', "null", "[{}]", "-1e300"], ["1e400", '{"a":1,"a":1}', "[1e400]"]),
    ],
)  # fmt: skip
def test_rules_take_what_they_should(check: f.Check, good: list[str], bad: list[str]) -> None:
    """The last good value and the first bad one."""
    assert [text for text in good if not takes(check, text)] == []
    assert [text for text in bad if takes(check, text)] == []


def test_options_are_booleans_with_known_names() -> None:
    """An unknown one is told with its path."""
    known = frozenset({"a"})
    assert f.read_options("x", raw('{"a":true}'), StrictReader(), known) == {"a": True}
    with pytest.raises(ApiError) as caught:
        f.read_options("x", raw('{"b":true}'), StrictReader(), known)
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "x.b")
