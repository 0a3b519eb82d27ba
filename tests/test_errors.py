from __future__ import annotations

import dataclasses

import pytest

from gateway import errors
from gateway.domain import Reason, Refusal, TenantLimits
from gateway.errors import ApiError, refused

REFUSAL = Refusal(
    Reason.TOO_LARGE, need_tokens=12_345, headroom_tokens=678, capacity_tokens=9_000, largest_max_tokens=512
)


@pytest.mark.parametrize(
    ("reason", "status", "code", "type_"),
    [
        (Reason.TOO_LARGE, 400, "context_length_exceeded", "invalid_request_error"),
        (Reason.HEADROOM, 429, "kv_capacity_exhausted", "rate_limit_error"),
        (Reason.QUEUE_FULL, 429, "queue_full", "rate_limit_error"),
        (Reason.QUEUE_TIMEOUT, 429, "queue_timeout", "rate_limit_error"),
        (Reason.TENANT_LIMIT, 429, "tenant_limit", "rate_limit_error"),
        (Reason.NO_BACKEND, 503, "no_backend", "server_error"),
        (Reason.STALE_TELEMETRY, 503, "no_backend", "server_error"),
        (Reason.SHUTDOWN, 503, "draining", "server_error"),
    ],
)
def test_each_refusal_is_a_row_of_the_contract(reason: Reason, status: int, code: str, type_: str) -> None:
    """Status, code and type; and what may be tried again says so and when."""
    error = refused(dataclasses.replace(REFUSAL, reason=reason, retry_after_s=2.5), "m")
    assert (error.status, error.code, error.type) == (status, code, type_)
    assert error.should_retry == (status != 400)
    if error.should_retry:
        assert error.retry_after_s == 2.5
        assert "Retry in about 2.5 s" in error.message


@pytest.mark.parametrize("reason", [Reason.OK, Reason.OK_AFTER_WAIT, Reason.CLIENT_GONE])
def test_what_is_no_refusal_is_no_error(reason: Reason) -> None:
    """A mistake of the caller."""
    with pytest.raises(ValueError, match=reason.name):
        refused(Refusal(reason), "m")


def test_every_reason_is_decided_on() -> None:
    """A new reason cannot be forgotten."""
    for reason in Reason:
        try:
            assert isinstance(refused(Refusal(reason), "m"), ApiError)
        except ValueError:
            assert reason in (Reason.OK, Reason.OK_AFTER_WAIT, Reason.CLIENT_GONE)


def test_what_never_fits_tells_what_would() -> None:
    """Need, capacity, and the largest max_tokens that fits, if any does."""
    error = refused(REFUSAL, "m")
    assert error.param == "max_tokens"
    for number in ("12,345", "9,000", "max_tokens <= 512"):
        assert number in error.message
    alone = refused(dataclasses.replace(REFUSAL, largest_max_tokens=0), "m")
    assert "The prompt alone does not fit." in alone.message


def test_no_room_tells_how_much_is_missing_and_how_long_it_waited() -> None:
    """The numbers that a client needs to change its mind."""
    error = refused(dataclasses.replace(REFUSAL, reason=Reason.QUEUE_TIMEOUT, waited_s=3.25), "m")
    for number in ("12,345", "678", "9,000", "3.2 s"):
        assert number in error.message
    assert error.retry_after_s is None
    assert "Retry" not in error.message


@pytest.mark.parametrize(
    ("error", "status", "code", "param"),
    [
        (errors.invalid_json("it ends early"), 400, "invalid_json", None),
        (errors.duplicate_key("a"), 400, "duplicate_key", "a"),
        (errors.invalid_value("n", "it is odd"), 400, "invalid_value", "n"),
        (errors.unsupported_parameter("x"), 400, "unsupported_parameter", "x"),
        (errors.model_not_found("m"), 404, "model_not_found", "model"),
        (errors.upstream_error("The engine failed."), 502, "upstream_error", None),
        (errors.upstream_timeout("The engine was silent."), 504, "upstream_timeout", None),
        (errors.internal_error(), 500, "internal_error", None),
    ],
)
def test_other_errors_have_their_rows_too(error: ApiError, status: int, code: str, param: str | None) -> None:
    """None of them advises a retry: the same request would fail the same way, or run twice."""
    assert (error.status, error.code, error.param, error.should_retry) == (status, code, param, False)
    assert error.type == ("server_error" if status >= 500 else "invalid_request_error")
    assert str(error) == error.message


def test_an_engine_that_got_nothing_may_be_asked_again() -> None:
    """The one failure of an engine after which a retry is safe."""
    assert errors.upstream_error("It is away.", should_retry=True).should_retry


def test_a_full_queue_says_why_free_memory_is_not_to_be_had() -> None:
    """It belongs to those who wait already."""
    told = refused(Refusal(Reason.QUEUE_FULL, 3.0, 400, 144, 4096, requests_ahead=24), "m")
    assert told.message == (
        "The queue is full: 24 requests wait for room already. This one needs 400 KV-cache tokens; 144 of 4,096 are "
        "free, for those ahead. Retry in about 3.0 s."
    )


def test_a_tenant_over_its_share_is_told_of_the_room_that_is_for_others() -> None:
    """Need, headroom and wait, as in every refusal."""
    told = refused(Refusal(Reason.TENANT_LIMIT, 3.0, 400, 144, 4096), "m")
    assert told.message == (
        "Your share of the KV cache is in use while others wait: the request needs 400 KV-cache tokens, 144 of 4,096 "
        "are free for them. Retry in about 3.0 s."
    )


@pytest.mark.parametrize(
    ("limit", "most", "said"),
    [
        ("requests_max", 1, "Your key allows 1 request at once, and so many run."),
        ("requests_max", 12, "Your key allows 12 requests at once, and so many run."),
        ("requests_per_minute", 6000, "Your key allows 6,000 requests per minute, and no more are left."),
        ("tokens_per_minute", 10**6, "Your key allows 1,000,000 tokens per minute, and too few of them are left."),
    ],
)
def test_a_tenant_at_a_limit_of_its_own_is_told_which(limit: str, most: int, said: str) -> None:
    """Every key that it has; memory is not the matter then."""
    refusal = Refusal(Reason.TENANT_LIMIT, 3.0, tenant_limit=limit, tenant_limit_max=most)
    assert refused(refusal, "m").message == f"{said} Retry in about 3.0 s."
    assert limit in {field.name for field in dataclasses.fields(TenantLimits)}
