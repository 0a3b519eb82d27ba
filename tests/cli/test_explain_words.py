"""Sentences for every decision, with its numbers and, where there is one, a way out."""

from __future__ import annotations

import msgspec
import pytest

from gateway.cli.explain_words import REASONS, DecisionEntry, Estimate, KvTokens, Output, decided, estimated
from gateway.domain import Reason

ESTIMATE = Estimate(
    decision="admit",
    reason="ok",
    backend="local-1",
    prompt_tokens=1_000,
    output_tokens=Output(p50=100, p90=400, max=1_001),
    kv_tokens=KvTokens(now=1_008, expected=1_408, max=2_008),
    kv_bytes=3 * 2**29,
    headroom_tokens=40_000,
    wait_s=0.0,
    retry_after_s=None,
    largest_max_tokens=30_000,
)
ENTRY = DecisionEntry(
    request_id="r-1",
    arrived_s=1_700_000_000.0,
    endpoint="/v1/completions",
    model="m",
    tenant="t",
    priority="batch",
    decision="admitted",
    reason="ok",
    backend="local-1",
    outcome="finished",
    prompt_tokens=90,
    prompt_tokens_predicted=100,
    output_tokens=40,
    output_tokens_p50=20,
    output_tokens_p90=60,
    max_tokens=100,
    kv_tokens=192,
    need_tokens=192,
    headroom_tokens=None,
    wait_s=0.0,
    retry_after_s=None,
    ttft_s=0.5,
    duration_s=2.0,
)


def replaced(of: Estimate, **changes: object) -> Estimate:
    return msgspec.structs.replace(of, **changes)


def test_it_would_be_admitted() -> None:
    assert estimated(ESTIMATE).splitlines() == [
        "It would be admitted now, to local-1.",
        "  prompt    about 1,000 tokens",
        "  answer    half are within 100 tokens, 90 % within 400, all within 1,001",
        "  KV cache  1,008 tokens once the prompt is read, 1,408 at its likely end, 1.5 GiB per GPU, 2,008 at most",
        "  headroom  40,000 tokens",
    ]


def test_it_would_wait_and_what_would_fit() -> None:
    """The advice is about what is free now."""
    waits = replaced(ESTIMATE, decision="queue", reason="headroom", backend=None, headroom_tokens=1_208, wait_s=2.34)
    first, *_, last = estimated(waits).splitlines()
    assert first == "It would wait, for about 2.3 s: there is no room."
    assert last == "With max_tokens of about 201 or less it would fit into what is free."
    assert "With" not in estimated(replaced(waits, headroom_tokens=500)), "its prompt alone does not fit now"
    assert "With" not in estimated(replaced(waits, headroom_tokens=9_999)), "memory is not what it lacks"
    assert "With" not in estimated(replaced(waits, reason="tenant_limit"))
    assert estimated(replaced(waits, wait_s=None)).startswith("It would wait: there is no room.")


def test_it_would_be_refused() -> None:
    refused = replaced(ESTIMATE, decision="refuse", reason="queue_full", backend=None, wait_s=None, retry_after_s=12.3)
    assert estimated(refused).startswith("It would be refused: the queue is full. A retry in 12.3 s has room.")


def test_it_could_never_fit() -> None:
    never = replaced(ESTIMATE, decision="never_fits", reason="too_large", backend=None, wait_s=None)
    assert estimated(never).startswith("It would be refused for good: it could come to need more than any backend has.")
    assert estimated(never).endswith("With max_tokens of 30,000 or less it would fit.")
    assert "Its prompt alone does not fit" in estimated(replaced(never, largest_max_tokens=0))


def test_observing_it_says_what_enforcing_would_do() -> None:
    observed = estimated(replaced(ESTIMATE, reason="headroom"))
    assert "to local-1. Enforcing, the gateway would not: there is no room." in observed


def test_a_provider_has_no_memory_to_speak_of() -> None:
    hosted = replaced(ESTIMATE, kv_tokens=KvTokens(0, 0, 0), kv_bytes=None, headroom_tokens=None)
    assert len(estimated(hosted).splitlines()) == 3


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason not in (Reason.OK, Reason.OK_AFTER_WAIT)])
def test_every_reason_has_words(reason: Reason) -> None:
    assert REASONS[reason.value]


def test_what_was_admitted() -> None:
    assert decided(ENTRY).splitlines() == [
        "r-1 was admitted at once, to local-1.",
        "  came         2023-11-14 22:13:20 UTC",
        "  asked for    m by /v1/completions, batch, tenant t",
        "  prompt       90 tokens, 100 predicted",
        "  answer       40 tokens; predicted: half within 20, 90 % within 60, max_tokens 100",
        "  KV cache     192 tokens needed",
        "  first token  after 0.50 s",
        "  ended        finished, after 2.00 s",
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"decision": "admitted_after_wait", "wait_s": 1.2}, "r-1 was admitted after a wait of 1.2 s, to local-1."),
        ({"decision": "spilled"}, "r-1 was admitted at once, to local-1, since its own engines had no room."),
        ({"reason": "headroom"}, "to local-1. Enforcing, the gateway would not have: there is no room."),
        ({"decision": "left", "backend": None}, "r-1 was not decided on: its client left before."),
        (
            {"decision": "refused", "reason": "queue_timeout", "wait_s": 30.0, "retry_after_s": 4.0},
            "r-1 was refused after a wait of 30.0 s: no room came in time. It was told to come back in 4.0 s.",
        ),
        ({"decision": "refused", "reason": "shutdown"}, "r-1 was refused: the gateway is shutting down."),
        ({"headroom_tokens": 64}, "192 tokens needed, 64 were free"),
    ],
)
def test_other_decisions(changes: dict[str, object], words: str) -> None:
    assert words in decided(msgspec.structs.replace(ENTRY, **changes))
