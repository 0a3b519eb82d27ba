"""Which requests come when: traces in CSV, KVGate's own decision journal, and what is made of either for a replay."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain

from gateway.domain import Priority
from gateway.simulation.chance import bits, uniform

ROWS_MAX = 5_000_000
SEQUENCES_MAX = 1024
"""Answers to one request."""
COLUMNS = ("arrival_s", "prompt_tokens", "output_tokens")
"""What a CSV must have; `max_tokens`, `client` (or `tenant`) and `priority` are read if they are there."""
ABSENT_SHARE, ABSURD_SHARE = 0.5, 0.25
"""Traces do not tell `max_tokens`. So many clients set none, so many an absurd one; the rest set a sensible one."""
ABSURD_MAX_TOKENS = 16_384
_MAX_TOKENS_DRAW, _LENGTH_DRAW = 1, 2
"""Keys of chance: what is drawn for one purpose must not decide another."""


class TraceError(ValueError):
    """A trace or journal cannot be replayed; the message says which line and why, in one sentence."""


@dataclass(frozen=True, slots=True)
class Request:
    """One client's wish, and the answer that the model is going to give."""

    arrives_s: float
    """After the first of all."""
    prompt_tokens: int
    output_tokens: int
    """How many it will get: at most `max_tokens`."""
    max_tokens: int | None = None
    tenant: str = ""
    priority: Priority = Priority.INTERACTIVE


@dataclass(frozen=True, slots=True)
class Row:
    """A request as it was written down."""

    arrived_s: float
    prompt_tokens: int
    output_tokens: int | None
    """None if it was refused: nobody knows how long its answer would have been."""
    max_tokens: int | None
    """None if it set none, or if that was not written down; see `Trace`."""
    tenant: str
    priority: Priority
    model: str = ""


@dataclass(frozen=True, slots=True)
class Trace:
    """What was read, in the order of arrival."""

    rows: tuple[Row, ...]
    tells_max_tokens: bool
    """Whether a missing `max_tokens` means that the client set none."""


def read_trace(lines: Iterable[str], *, model: str | None = None) -> Trace:
    """Read a CSV with a head line, or a journal with one JSON object per line: told apart by the first character.

    Args:
        lines: the file's lines.
        model: of a journal, the one model whose requests are meant.

    Raises:
        TraceError: with the line's number.
    """
    start = iter(lines)
    first = next(start, "")
    is_journal = first.lstrip("\ufeff \t").startswith("{")
    every = chain([first.removeprefix("\ufeff")], start)
    return _read_journal(every, model) if is_journal else _read_csv(every)


def requests_of(
    trace: Trace, count: int | None = None, *, seed: int, sequence_tokens_max: int, max_tokens_cap: int | None = None
) -> list[Request]:
    """Make a replayable workload of a trace. Whoever could not fit an empty engine is left out.

    Args:
        trace: what was read.
        count: only so many of its rows, the first.
        seed: of all that a trace does not tell: `max_tokens`, and the lengths of answers that were never given.
        sequence_tokens_max: longest prompt plus answer that the engine takes; a larger `max_tokens` is cut to it.
        max_tokens_cap: a limit that the operator sets: longer answers end there.
    """
    served = [row.output_tokens for row in trace.rows if row.output_tokens is not None]
    first_s = trace.rows[0].arrived_s
    requests = []
    for number, row in enumerate(trace.rows[:count]):
        output = row.output_tokens or served[bits(seed, _LENGTH_DRAW, number) % len(served)]
        asked = row.max_tokens if trace.tells_max_tokens else _drawn_max_tokens(output, seed, number)
        bounds = [bound for bound in (asked, max_tokens_cap) if bound is not None]
        output = min([output, *bounds])
        longest = sequence_tokens_max - row.prompt_tokens
        if longest < (output if row.output_tokens else 1):
            continue
        output = min(output, longest)
        max_tokens = min([*bounds, longest]) if bounds else None
        arrives_s = row.arrived_s - first_s
        requests.append(Request(arrives_s, row.prompt_tokens, output, max_tokens, row.tenant, row.priority))
    return requests


def at_rate(requests: list[Request], requests_per_s: float, copies: int = 1) -> list[Request]:
    """The same requests at another mean rate, their bursts kept.

    Args:
        requests: in the order of arrival.
        requests_per_s: mean rate over all copies.
        copies: so many copies are laid over each other, each shifted round by an equal part of the whole: more
            replicas serve more clients, not the same clients in more of a hurry.
    """
    if len(requests) < 2:
        return requests * copies
    span_s = requests[-1].arrives_s * len(requests) / (len(requests) - 1)
    stretch = len(requests) * copies / requests_per_s / span_s if span_s else 0.0
    spread = [
        replace(request, arrives_s=(request.arrives_s + span_s * copy / copies) % span_s * stretch if span_s else 0.0)
        for copy in range(copies)
        for request in requests
    ]
    return sorted(spread, key=lambda request: request.arrives_s)


def _drawn_max_tokens(output_tokens: int, seed: int, number: int) -> int | None:
    draw = uniform(seed, _MAX_TOKENS_DRAW, number)
    if draw < ABSENT_SHARE:
        return None
    return ABSURD_MAX_TOKENS if draw < ABSENT_SHARE + ABSURD_SHARE else 1 << output_tokens.bit_length()


def _read_csv(lines: Iterable[str]) -> Trace:
    reader = csv.reader(lines)
    try:
        head = [name.strip() for name in next(reader, [])]
        missing = [name for name in COLUMNS if name not in head]
        if missing:
            raise TraceError(f"Line 1: the trace has no column {' and no column '.join(missing)}.")
        rows = list(_csv_rows(reader, head))
    except csv.Error as error:
        raise TraceError(f"Line {reader.line_num}: {error}.") from error
    _check_some(rows)
    return Trace(tuple(rows), tells_max_tokens="max_tokens" in head)


def _csv_rows(reader: Iterator[list[str]], head: list[str]) -> Iterator[Row]:
    before_s = 0.0
    # The header counts as line 1. A quoted line break would put later numbers off; traces have none.
    for line, cells in enumerate(reader, start=2):
        if not cells:
            continue
        if len(cells) != len(head):
            raise TraceError(f"Line {line}: {len(cells)} cells under {len(head)} columns.")
        row = _row(dict(zip(head, cells, strict=True)), "arrival_s", line)
        if row.arrived_s < before_s:
            raise TraceError(f"Line {line}: arrival_s is {row.arrived_s:g}, before the {before_s:g} above it.")
        before_s = row.arrived_s
        yield row
        _check_count(line)


def _read_journal(lines: Iterable[str], model: str | None) -> Trace:
    rows = []
    for line, text in enumerate(lines, start=1):
        if text.strip():
            rows += [row for row in _journal_rows(text, line) if model is None or row.model == model]
        _check_count(line)
    _check_some(rows)
    models = sorted({row.model for row in rows})
    if len(models) > 1:
        raise TraceError(f"The journal has requests for several models ({', '.join(models)}): name one of them.")
    if all(row.output_tokens is None for row in rows):
        raise TraceError("The journal has no request that was served, so nothing is known of the answers' lengths.")
    # Written as requests end, not as they come.
    return Trace(tuple(sorted(rows, key=lambda row: row.arrived_s)), tells_max_tokens=True)


def _journal_rows(text: str, line: int) -> list[Row]:
    """One request; one row for each answer that it asked for, all with its prompt."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TraceError(f"Line {line}: no JSON object.") from error
    if not isinstance(content, dict):
        raise TraceError(f"Line {line}: no JSON object.")
    for name in ("arrived_s", "prompt_tokens"):
        if content.get(name) is None:
            raise TraceError(f"Line {line}: {name} is missing.")
    cells = {name: "" if value is None else str(value) for name, value in content.items()}
    sequences = _count(cells.get("sequences", "1"), "sequences", line)
    if sequences > SEQUENCES_MAX:
        raise TraceError(f"Line {line}: sequences is {sequences}, above {SEQUENCES_MAX}.")
    if cells.get("endpoint", "").endswith("/embeddings"):
        # Nothing is generated: a prompt, and the step that it takes.
        return [replace(_row(cells | {"output_tokens": "1"}, "arrived_s", line), max_tokens=1)]
    row = _row(cells, "arrived_s", line, may_lack_output=True)
    if row.output_tokens is not None:
        row = replace(row, output_tokens=-(-row.output_tokens // sequences))
    return [row] * sequences


def _row(cells: Mapping[str, str], time_column: str, line: int, *, may_lack_output: bool = False) -> Row:
    output = cells.get("output_tokens", "")
    max_tokens = cells.get("max_tokens", "").strip()
    # Nothing was generated: a refusal, or a request that failed before its answer began.
    is_unknown = may_lack_output and output in ("", "0")
    return Row(
        _seconds(cells[time_column], time_column, line),
        _count(cells["prompt_tokens"], "prompt_tokens", line),
        None if is_unknown else _count(output, "output_tokens", line),
        _count(max_tokens, "max_tokens", line) if max_tokens else None,
        cells.get("tenant") or cells.get("client") or "",
        _priority(cells.get("priority", ""), line),
        cells.get("model", ""),
    )


def _seconds(text: str, column: str, line: int) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise TraceError(f"Line {line}: {column} is {text!r}, not a number of seconds.")
    if value < 0:
        raise TraceError(f"Line {line}: {column} is {text}, below zero.")
    return value


def _count(text: str, column: str, line: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise TraceError(f"Line {line}: {column} is {text!r}, not a whole number from 1 on.")
    return value


def _priority(text: str, line: int) -> Priority:
    if not text:
        return Priority.INTERACTIVE
    for priority in Priority:
        if text.strip().lower() in (priority.name.lower(), str(int(priority))):
            return priority
    raise TraceError(f"Line {line}: priority is {text!r}, not {', '.join(each.name.lower() for each in Priority)}.")


def _check_count(line: int) -> None:
    if line > ROWS_MAX:
        raise TraceError(f"Line {line}: more than {ROWS_MAX:,} lines.")


def _check_some(rows: list[Row]) -> None:
    if not rows:
        raise TraceError("The trace is empty: it has no request.")
