"""How large and how slow a request may be that comes in, and what becomes of one that is more."""

from __future__ import annotations

from gateway.errors import ApiError

HEAD_MAX_S = 10.0
"""A client that has not sent its head after so long holds a connection and nothing else."""
BODY_GRACE_S = 10.0
"""For any body to arrive."""
BODY_BYTES_PER_S_MIN = 16 * 1024
"""For the length that it states, a body gets more time: a slow line is no attack."""
CHUNKED_MAX_S = 15.0
"""For a body that states none: clients of the API do not send such."""
BODY_MAX_S = 30.0
"""For a body that comes in pieces from a proxy in front, which has limits of its own."""


def body_max_s(length_bytes: int | None) -> float:
    """For how long a body is waited for, seconds."""
    return CHUNKED_MAX_S if length_bytes is None else BODY_GRACE_S + length_bytes / BODY_BYTES_PER_S_MIN


def too_large(limit_bytes: int) -> ApiError:
    """The body is larger than the server takes."""
    return ApiError(413, "request_too_large", f"The request body is larger than {limit_bytes:,} bytes.", close=True)


def too_slow(part: str = "body") -> ApiError:
    """The head or the body did not arrive in time."""
    text = f"The {part} of the request did not arrive in time."
    return ApiError(408, "request_timeout", text, type_="timeout_error", close=True)
