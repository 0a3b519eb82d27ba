"""Regular expressions inside JSON schemas: engines build automata of them, and a few characters can cost gigabytes."""

from __future__ import annotations

import re

from gateway.api.strict_json import Json
from gateway.errors import invalid_value

PATTERN_MAX_CHARS = 1_024
REPEATING_MAX_CHARS = 16_384
"""Of all patterns with repetitions in one field: they are read character by character."""
STATES_MAX = 10_000
"""Characters of the longest text that a pattern spells out, its bounded repetitions written one by one."""
_REPEAT = re.compile(r"\{([0-9]{0,9})(?:,([0-9]{0,9}))?\}")
_CLASS = re.compile(r"\[\^?\]?(?:[^\]\\]|\\.)*\]", re.DOTALL)


def require_small_patterns(name: str, text: bytes, value: Json) -> None:
    """Check every pattern in a schema, however deep.

    Args:
        name: what to call it in an error.
        text: it as it came.
        value: it decoded.

    Raises:
        ApiError: 400 `invalid_value` for a pattern that is too long, or spells out too much.
    """
    if b"attern" not in text and b"\\u" not in text:
        return
    level: list[Json] = [value]
    read_chars = 0
    while level:
        for node in level:
            if isinstance(node, dict):
                read_chars += _check_patterns(name, node)
            if read_chars > REPEATING_MAX_CHARS:
                raise invalid_value(name, f"patterns in it have more than {REPEATING_MAX_CHARS:,} characters")
        level = [child for node in level for child in _children(node)]


def states(pattern: str) -> int:
    """How many characters a pattern has with its bounded repetitions written out; an upper bound on what it matches
    without `*` and `+`. A pattern that is none gives some number: its engine refuses it."""
    groups, last, at = [0], 0, 0
    while at < len(pattern):
        repeat = _REPEAT.match(pattern, at) if pattern[at] == "{" else None
        if repeat is not None:
            times = max(int(bound or 0) for bound in repeat.groups())
            groups[-1] += last * (max(times, 1) - 1)
            last *= max(times, 1)
            at = repeat.end()
            continue
        if pattern[at] == "(":
            groups.append(0)
        elif pattern[at] == ")" and len(groups) > 1:
            last = groups.pop()
            groups[-1] += last
        else:
            last = 1
            groups[-1] += 1
        at = _behind(pattern, at)
    return sum(groups)


def _behind(pattern: str, at: int) -> int:
    """Where the next piece begins: an escape and a class of characters are one."""
    if pattern[at] == "\\":
        return at + 2
    whole = _CLASS.match(pattern, at) if pattern[at] == "[" else None
    return at + 1 if whole is None else whole.end()


def _check_patterns(name: str, node: dict[str, Json]) -> int:
    """How many characters had to be read."""
    pattern, properties = node.get("pattern"), node.get("patternProperties")
    patterns = [pattern] if isinstance(pattern, str) else []
    patterns += properties if isinstance(properties, dict) else ()
    read_chars = 0
    for each in patterns:
        if len(each) > PATTERN_MAX_CHARS:
            raise invalid_value(name, f"a pattern in it is longer than {PATTERN_MAX_CHARS:,} characters")
        if "{" in each and read_chars <= REPEATING_MAX_CHARS:
            read_chars += len(each)
            if states(each) > STATES_MAX:
                raise invalid_value(name, f"a pattern in it repeats more than {STATES_MAX:,} characters")
    return read_chars


def _children(node: Json) -> list[Json]:
    if isinstance(node, dict):
        return list(node.values())
    return node if isinstance(node, list) else []
