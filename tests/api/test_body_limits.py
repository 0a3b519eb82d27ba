"""Bodies that are not taken: both answers close the connection, as the rest of the body may still come."""

from gateway.api.body_limits import BODY_MAX_S, too_large, too_slow


def test_too_large() -> None:
    error = too_large(4_194_304)
    assert (error.status, error.code, error.close) == (413, "request_too_large", True)
    assert "4,194,304 bytes" in error.message


def test_too_slow() -> None:
    error = too_slow()
    assert (error.status, error.code, error.type, error.close) == (408, "request_timeout", "timeout_error", True)
    assert f"{BODY_MAX_S:.0f} s" in error.message
