"""What becomes of a body that is too large or too slow."""

from __future__ import annotations

from gateway.errors import ApiError

BODY_MAX_S = 30.0
"""A body that takes longer to arrive is not waited for."""


def too_large(limit_bytes: int) -> ApiError:
    """The body is larger than the server takes."""
    return ApiError(413, "request_too_large", f"The request body is larger than {limit_bytes:,} bytes.", close=True)


def too_slow() -> ApiError:
    """The body did not arrive in time."""
    text = f"The request body took longer than {BODY_MAX_S:.0f} s."
    return ApiError(408, "request_timeout", text, type_="timeout_error", close=True)
