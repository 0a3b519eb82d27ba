"""Decisions in plain words: what would happen to a request, or did, with the numbers behind it and a way out."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Annotated

import msgspec

YEAR_10000_UNIX_S = 253_402_300_800
GIB = 2**30
MIB = 2**20
REASONS = {
    "headroom": "there is no room",
    "queue_full": "the queue is full",
    "queue_timeout": "no room came in time",
    "tenant_limit": "its key is at a limit of its own: requests at once or per minute, or its share of the KV cache",
    "no_backend": "no backend of its model can take requests",
    "stale_telemetry": "no backend of its model tells how it is",
    "too_large": "it could come to need more than any backend has",
    "shutdown": "the gateway is shutting down",
    "client_gone": "its client left",
}


class Output(msgspec.Struct, frozen=True):
    """Tokens of one answer."""

    p50: int
    p90: int
    max: int


class KvTokens(msgspec.Struct, frozen=True):
    """Tokens of KV cache, in whole blocks."""

    now: int
    expected: int
    max: int


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `/v1/estimate`."""

    decision: str
    reason: str
    backend: str | None
    prompt_tokens: int
    output_tokens: Output
    kv_tokens: KvTokens
    kv_bytes: int | None
    headroom_tokens: int | None
    wait_s: float | None
    retry_after_s: float | None
    largest_max_tokens: int | None


class DecisionEntry(msgspec.Struct, frozen=True, kw_only=True):
    """What is shown of an entry of the decision journal."""

    request_id: str
    arrived_s: Annotated[float, msgspec.Meta(ge=0, lt=YEAR_10000_UNIX_S)]
    endpoint: str
    model: str
    tenant: str
    priority: str
    decision: str
    reason: str
    backend: str | None
    outcome: str
    prompt_tokens: int | None
    prompt_tokens_predicted: int | None
    output_tokens: int | None
    output_tokens_p50: int | None
    output_tokens_p90: int | None
    max_tokens: int | None
    kv_tokens: int
    need_tokens: int | None
    headroom_tokens: int | None
    wait_s: float
    retry_after_s: float | None
    ttft_s: float | None
    duration_s: float | None


def estimated(estimate: Estimate) -> str:
    """What would happen to a request, and why."""
    output, kv = estimate.output_tokens, estimate.kv_tokens
    rows = [
        ("prompt", f"about {estimate.prompt_tokens:,} tokens"),
        ("answer", f"half are within {output.p50:,} tokens, 90 % within {output.p90:,}, all within {output.max:,}"),
    ]
    if kv.max:
        size = f", {_size(estimate.kv_bytes)} per GPU" if estimate.kv_bytes else ""
        text = f"{kv.now:,} tokens once the prompt is read, {kv.expected:,} at its likely end{size}, {kv.max:,} at most"
        rows.append(("KV cache", text))
    if estimate.headroom_tokens is not None:
        rows.append(("headroom", f"{estimate.headroom_tokens:,} tokens"))
    return "\n".join([_verdict(estimate), *_rows(rows), *_advice(estimate)])


def _verdict(estimate: Estimate) -> str:
    why = REASONS.get(estimate.reason)
    match estimate.decision:
        case "admit":
            said = f"It would be admitted now, to {estimate.backend}."
            return f"{said} Enforcing, the gateway would not: {why}." if why else said
        case "queue":
            wait = "" if estimate.wait_s is None else f", for about {estimate.wait_s:.1f} s"
            return f"It would wait{wait}: {why or estimate.reason}."
        case "never_fits":
            return f"It would be refused for good: {why or estimate.reason}."
        case _:
            retry = "" if estimate.retry_after_s is None else f" A retry in {estimate.retry_after_s:.1f} s has room."
            return f"It would be refused: {why or estimate.reason}.{retry}"


def _advice(estimate: Estimate) -> Iterator[str]:
    """What would make it fit."""
    largest, output, kv = estimate.largest_max_tokens, estimate.output_tokens, estimate.kv_tokens
    if estimate.decision == "never_fits":
        if largest:
            yield f"With max_tokens of {largest:,} or less it would fit."
        else:
            yield "Its prompt alone does not fit: shorten it, or use a model with a larger KV cache."
    elif estimate.decision in ("queue", "refuse") and estimate.reason == "headroom" and output.max > 1:
        per_token = (kv.max - kv.now) / (output.max - 1)
        room = (estimate.headroom_tokens or 0) - kv.now
        if per_token and 0 <= room < kv.expected - kv.now:
            yield f"With max_tokens of about {1 + int(room / per_token):,} or less it would fit into what is free."


def decided(entry: DecisionEntry) -> str:
    """What happened to a request, and why."""
    when = dt.datetime.fromtimestamp(entry.arrived_s, dt.UTC).isoformat(sep=" ", timespec="seconds")
    who = f", tenant {entry.tenant}" if entry.tenant else ""
    rows = [
        ("came", f"{when[:19]} UTC"),
        ("asked for", f"{entry.model} by {entry.endpoint}, {entry.priority}{who}"),
        ("prompt", f"{_count(entry.prompt_tokens)} tokens, {_count(entry.prompt_tokens_predicted)} predicted"),
        ("answer", _answer(entry)),
    ]
    if entry.need_tokens:
        free = "" if entry.headroom_tokens is None else f", {entry.headroom_tokens:,} were free"
        rows.append(("KV cache", f"{entry.need_tokens:,} tokens needed{free}"))
    if entry.ttft_s is not None:
        rows.append(("first token", f"after {entry.ttft_s:.2f} s"))
    if entry.duration_s is not None:
        rows.append(("ended", f"{entry.outcome}, after {entry.duration_s:.2f} s"))
    return "\n".join([_happened(entry), *_rows(rows)])


def _happened(entry: DecisionEntry) -> str:
    why = REASONS.get(entry.reason)
    if entry.decision == "refused":
        waited = f" after a wait of {entry.wait_s:.1f} s" if entry.wait_s else ""
        retry = "" if entry.retry_after_s is None else f" It was told to come back in {entry.retry_after_s:.1f} s."
        return f"{entry.request_id} was refused{waited}: {why or entry.reason}.{retry}"
    if entry.decision == "left":
        return f"{entry.request_id} was not decided on: its client left before."
    wait = f"after a wait of {entry.wait_s:.1f} s" if entry.wait_s else "at once"
    spilled = ", since its own engines had no room" if entry.decision == "spilled" else ""
    doubt = f" Enforcing, the gateway would not have: {why}." if why else ""
    return f"{entry.request_id} was admitted {wait}, to {entry.backend}{spilled}.{doubt}"


def _answer(entry: DecisionEntry) -> str:
    real = "" if entry.output_tokens is None else f"{entry.output_tokens:,} tokens; "
    limit = "" if entry.max_tokens is None else f", max_tokens {entry.max_tokens:,}"
    middle, most = _count(entry.output_tokens_p50), _count(entry.output_tokens_p90)
    return f"{real}predicted: half within {middle}, 90 % within {most}{limit}"


def _rows(rows: list[tuple[str, str]]) -> Iterator[str]:
    width = max(len(name) for name, _ in rows)
    return (f"  {name.ljust(width)}  {text}" for name, text in rows)


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def _size(size_bytes: int) -> str:
    return f"{size_bytes / GIB:,.1f} GiB" if size_bytes >= GIB else f"{size_bytes / MIB:,.1f} MiB"
