"""What is not taken: both answers close the connection, as the rest may still come."""

import pytest

from gateway.api.body_limits import BODY_GRACE_S, CHUNKED_MAX_S, body_max_s, too_large, too_slow


def test_too_large() -> None:
    error = too_large(4_194_304)
    assert (error.status, error.code, error.close) == (413, "request_too_large", True)
    assert "4,194,304 bytes" in error.message


@pytest.mark.parametrize("part", ["head", "body"])
def test_too_slow(part: str) -> None:
    error = too_slow(part)
    assert (error.status, error.code, error.type, error.close) == (408, "request_timeout", "timeout_error", True)
    assert part in error.message


def test_a_long_body_gets_more_time() -> None:
    """By the length that it states; one that states none could be any."""
    assert body_max_s(0) == BODY_GRACE_S
    assert body_max_s(4 * 2**20) == BODY_GRACE_S + 256
    assert body_max_s(None) == CHUNKED_MAX_S
