"""The body of `/v1/estimate`: an endpoint and the body that a request to it would have."""

from __future__ import annotations

from gateway.api import fields as f
from gateway.api.allowed_fields import ALLOWED
from gateway.api.parse import DEFAULT_POLICY, ParsePolicy, parse_inference
from gateway.api.strict_json import StrictReader
from gateway.errors import invalid_value
from gateway.request import InferenceRequest

ESTIMATE = "/v1/estimate"
_FIELDS = frozenset(("endpoint", "body"))


def parse_estimate(body: bytes, policy: ParsePolicy = DEFAULT_POLICY) -> InferenceRequest:
    """The request that is asked about, checked as if it came by itself; errors name its own fields.

    Args:
        body: not longer than the server's limit.
        policy: what the operator allows.

    Raises:
        ApiError: 400 for anything wrong with either body, 404 for a model name that cannot be one.
    """
    fields = StrictReader().root(body)
    for name in fields:
        if name not in _FIELDS:
            raise f.unknown(name)
    endpoint = f.read_text("endpoint", fields["endpoint"]) if "endpoint" in fields else ""
    if endpoint not in ALLOWED:
        raise invalid_value("endpoint", f"it must be one of {', '.join(ALLOWED)}")
    inner = fields.get("body")
    if inner is None or memoryview(inner)[0] != ord("{"):
        raise invalid_value("body", "expected an object")
    return parse_inference(endpoint, bytes(inner), policy)
