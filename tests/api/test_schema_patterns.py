"""Patterns that would cost an engine much are told from those that people write."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given, strategies as st

from gateway.api.schema_patterns import PATTERN_MAX_CHARS, STATES_MAX, require_small_patterns, states
from gateway.errors import ApiError


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("", 0),
        ("abc", 3),
        (r"\d{3}-\d{4}", 8),
        ("^[a-z0-9]{2,63}$", 65),
        ("(ab){3}", 6),
        ("((ab){10}c){10}", 210),
        ("a{5}{5}", 25),
        ("[]{}]{3}", 3),
        (r"[\]{9}]{2}", 2),
        (r"\{9}", 3),
        ("a{,7}", 7),
        ("a{x}", 4),
        ("a{0}", 1),
        ("a)b", 3),
        ("(a", 1),
        ("a*b+", 4),
    ],
)
def test_repetitions_are_written_out(pattern: str, expected: int) -> None:
    """One by one, and one inside another."""
    assert states(pattern) == expected


@given(st.text("ab(){},0123456789[]\\^|*?", max_size=40))
def test_any_pattern_has_a_number(pattern: str) -> None:
    """It is found whatever stands there."""
    assert states(pattern) >= 0


@given(
    st.recursive(st.sampled_from(["a", "bc"]), lambda inner: st.builds("({}){{{}}}".format, inner, st.integers(1, 4)))
)
def test_a_text_of_that_length_matches(pattern: str) -> None:
    """The number is right for patterns of repetitions alone."""
    assert re.fullmatch(pattern, _spelt(pattern))
    assert len(_spelt(pattern)) == states(pattern)


def _spelt(pattern: str) -> str:
    inner, times = re.fullmatch(r"\((.*)\)\{(\d+)\}", pattern).groups() if pattern.startswith("(") else (pattern, "1")  # type: ignore[union-attr]
    return (_spelt(inner) if inner.startswith("(") else inner) * int(times)


def refused(schema: object, text: bytes | None = None) -> bool:
    """Whether a schema is, and by the right name."""
    try:
        require_small_patterns("tools", text or json.dumps(schema).encode(), schema)  # type: ignore[arg-type]
    except ApiError as error:
        return (error.code, error.param) == ("invalid_value", "tools")
    return False


BOMB = "((a{100}){100}){100}"


@pytest.mark.parametrize(
    "schema",
    [
        {"pattern": BOMB},
        {"properties": {"x": {"type": "string", "pattern": BOMB}}},
        [{"a": [[{"patternProperties": {BOMB: {}}}]]}],
        {"propertyNames": {"pattern": "a" * (PATTERN_MAX_CHARS + 1)}},
        {"pattern": f"a{{{STATES_MAX + 1}}}"},
        {"pattern": "a{999999999,}"},
        [{"pattern": "a{1}" * 250}] * 20,
        {"patternProperties": {f"a{{{number}}}": {} for number in range(5_000)}},
    ],
)
def test_a_bomb_is_found_wherever_it_stands(schema: object) -> None:
    """In a pattern, or in a key that is one."""
    assert refused(schema)


def test_a_key_written_with_escapes_is_the_same_key() -> None:
    """To an engine it is."""
    assert refused({"pattern": BOMB}, b'{"p\\u0061tt\\u0065rn":"..."}')


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"pattern": {"type": "string"}}},
        {"pattern": r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z$"},
        {"pattern": f"a{{{STATES_MAX}}}"},
        {"description": BOMB},
        {"patternProperties": {"^x-": {}}},
        [{"pattern": "a" * PATTERN_MAX_CHARS}] * 100,
        [None, 1, "pattern"],
    ],
)
def test_what_people_write_is_taken(schema: object) -> None:
    """A property may have that name, too."""
    assert not refused(schema)
