"""Prometheus text format to the few samples that somebody wants, fast: what is not wanted is never looked at.

Format: https://prometheus.io/docs/instrumenting/exposition_formats/ (text format 0.0.4).
"""

from __future__ import annotations

import re

Sample = tuple[dict[str, str], float]
Samples = dict[bytes, list[Sample]]

SAMPLES_MAX = 4096
"""Samples of one family that are read. Engines have one per process or rank; a page with more is not one of theirs."""

_NUMBER = rb"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|Inf|NaN)"
_LABELS_START = re.compile(rb"[ \t]*\{[ \t]*")
_LABEL = re.compile(rb'([a-zA-Z_][a-zA-Z0-9_]*)[ \t]*=[ \t]*"([^"\\]*(?:\\.[^"\\]*)*)"[ \t]*(,[ \t]*)?')
_LABELS_END = re.compile(rb"\}")
_VALUE = re.compile(rb"[ \t]*(" + _NUMBER + rb")(?:[ \t]+[+-]?\d+)?[ \t]*\r?")
_ESCAPE = re.compile(r"\\(.)")
_ESCAPED = {"\\": "\\", '"': '"', "n": "\n"}


def parse(page: bytes, wanted: frozenset[bytes]) -> Samples:
    """All samples of the wanted metric names, in the order of the page; names without a sample are absent.

    Lines of other families may be garbage: they are skipped unread. A wanted line must be well-formed, and the page
    must end with a line break: a number that may have been cut short is worse than none.

    Raises:
        ValueError: a wanted line is malformed, the page is cut short, or a family has more than `SAMPLES_MAX` samples.
    """
    if page and not page.endswith(b"\n"):
        raise ValueError("the page does not end with a line break")
    text = b"\n" + page
    found: Samples = {}
    for name in wanted:
        samples = _family(text, name)
        if samples:
            found[name] = samples
    return found


def _family(text: bytes, name: bytes) -> list[Sample]:
    samples: list[Sample] = []
    start = text.find(b"\n" + name)
    while start >= 0:
        after = start + 1 + len(name)
        if text[after] in b"{ \t":
            if len(samples) == SAMPLES_MAX:
                raise ValueError(f"more than {SAMPLES_MAX} samples of {name.decode()}")
            samples.append(_sample(text[after : text.index(b"\n", after)]))
        start = text.find(b"\n" + name, after)
    return samples


def _sample(rest: bytes) -> Sample:
    labels: dict[str, str] = {}
    at = 0
    if opening := _LABELS_START.match(rest):
        at = opening.end()
        comma = True
        while comma and (label := _LABEL.match(rest, at)):
            key = label[1].decode()
            if key in labels:
                raise ValueError(f"label {key!r} appears twice")
            labels[key] = _unescape(label[2].decode())
            at, comma = label.end(), label[3] is not None
        if not (closing := _LABELS_END.match(rest, at)):
            raise ValueError("malformed labels")
        at = closing.end()
    value = _VALUE.fullmatch(rest, at)
    if not value:
        raise ValueError("malformed value")
    return labels, float(value[1])


def _unescape(value: str) -> str:
    return _ESCAPE.sub(_escaped, value) if "\\" in value else value


def _escaped(match: re.Match[str]) -> str:
    try:
        return _ESCAPED[match[1]]
    except KeyError:
        raise ValueError(f"unknown escape {match[0]!r}") from None
