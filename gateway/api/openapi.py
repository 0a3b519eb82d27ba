"""The API as an OpenAPI document, for people's tools: `python -m gateway.api.openapi > deploy/openapi.json`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from http import HTTPStatus

from gateway import __version__
from gateway.api.estimate import ESTIMATE
from gateway.api.field_schemas import Schema, request_schema
from gateway.api.models import MODELS
from gateway.request import CHAT, COMPLETIONS, EMBEDDINGS

CODES: Mapping[int, tuple[str, ...]] = {
    400: (
        *("invalid_json", "duplicate_key", "invalid_value", "unsupported_parameter", "context_length_exceeded"),
        "invalid_http",
    ),
    401: ("invalid_api_key",),
    404: ("model_not_found",),
    408: ("request_timeout",),
    413: ("request_too_large",),
    415: ("unsupported_media_type",),
    417: ("expectation_failed",),
    429: ("kv_capacity_exhausted", "queue_full", "queue_timeout", "tenant_limit", "upstream_busy"),
    500: ("internal_error",),
    502: ("upstream_error",),
    503: ("no_backend", "draining", "gateway_overloaded", "upstream_busy"),
    504: ("upstream_timeout",),
}
"""Every status and code of an error of the endpoints that ask something of an engine."""
_BUSY = frozenset((429, 503))
_LOOKS = frozenset((400, 401, 404, 408, 413, 415, 417, 500, 503))
"""Statuses of an endpoint that asks nothing of an engine."""
ENGINES = frozenset(CODES)
_COUNT: Schema = {"type": ["integer", "null"], "minimum": 0}
_SECONDS: Schema = {"type": ["number", "null"], "minimum": 0}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(schema: Schema) -> dict[str, object]:
    return {"application/json": {"schema": schema}}


def _object(**properties: Schema) -> dict[str, object]:
    """An object that has all of these."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def _schemas() -> dict[str, Schema]:
    texts: Schema = {"type": ["string", "null"]}
    model = _object(
        id={"type": "string"}, object={"const": "model"}, created={"type": "integer"}, owned_by={"type": "string"}
    )
    estimate = _object(
        decision={"enum": ["admit", "queue", "refuse", "never_fits"]},
        reason={"type": "string"},
        backend=texts,
        prompt_tokens={"type": "integer", "minimum": 0},
        output_tokens=_object(p50=_COUNT, p90=_COUNT, max=_COUNT),
        kv_tokens=_object(now=_COUNT, expected=_COUNT, max=_COUNT),
        kv_bytes=_COUNT,
        headroom_tokens={"type": ["integer", "null"]},
        wait_s=_SECONDS,
        retry_after_s=_SECONDS,
        largest_max_tokens=_COUNT,
    )
    error = _object(message={"type": "string"}, type={"type": "string"}, param=texts, code={"type": "string"})
    asked = [
        _object(endpoint={"const": endpoint}, body=_ref(name)) | {"additionalProperties": False}
        for endpoint, name in _BODIES.items()
    ]
    return {
        **{name: request_schema(endpoint) for endpoint, name in _BODIES.items()},
        "EstimateRequest": {"oneOf": asked},
        "Estimate": estimate,
        "Model": model,
        "Models": _object(object={"const": "list"}, data={"type": "array", "items": _ref("Model")}),
        "Error": _object(error=error),
        "Answer": {"type": "object", "description": "As the engine gives it, in OpenAI's form."},
    }


_BODIES = {CHAT: "ChatCompletionRequest", COMPLETIONS: "CompletionRequest", EMBEDDINGS: "EmbeddingRequest"}
_ID: Schema = {"schema": {"type": "string", "pattern": "^[A-Za-z0-9-]{1,64}$"}, "required": True}
_RETRY: dict[str, Schema] = {
    "retry-after": {"schema": {"type": "integer", "minimum": 1, "maximum": 60}},
    "retry-after-ms": {"schema": {"type": "integer", "minimum": 1, "maximum": 60_000}},
}


def _error(status: int) -> dict[str, object]:
    """One row of the table of errors."""
    codes = ", ".join(f"`{code}`" for code in CODES[status])
    headers = {"x-request-id": _ID, "x-should-retry": {"schema": {"enum": ["true", "false"]}, "required": True}}
    return {
        "description": f"{HTTPStatus(status).phrase}: {codes}.",
        "headers": headers | (_RETRY if status in _BUSY else {}),
        "content": _json(_ref("Error")),
    }


def _good(text: str, **content: Schema) -> dict[str, object]:
    return {"description": text, "headers": {"x-request-id": _ID}, "content": content}


def _operation(summary: str, good: Schema, statuses: frozenset[int], **more: object) -> dict[str, object]:
    responses = {"200": good} | {str(status): _error(status) for status in sorted(statuses)}
    if statuses == ENGINES:
        responses["4XX"] = _error(400) | {
            "description": "The engine refused it: `upstream_rejected`, or a code of its own."
        }
    return {"summary": summary, **more, "responses": responses}


def _post(summary: str, body: str, good: Schema, statuses: frozenset[int]) -> dict[str, object]:
    content = {"required": True, "content": _json(_ref(body))}
    return {"post": _operation(summary, good, statuses, requestBody=content)}


def _get(summary: str, schema: Schema, **more: object) -> dict[str, object]:
    good = _good("What was asked for.", **_json(schema))  # type: ignore[arg-type]
    return {"get": _operation(summary, good, _LOOKS, **more)}


def document() -> dict[str, object]:
    """The API of a gateway that nobody has configured otherwise: key or none, fields and limits of the defaults."""
    answer = {**_json(_ref("Answer")), "text/event-stream": {"schema": {"type": "string"}}}
    passed = _good("The engine's answer; a stream where one was asked for.", **answer)  # type: ignore[arg-type]
    vectors = _good("The engine's answer.", **_json(_ref("Answer")))  # type: ignore[arg-type]
    estimate = _good("What would become of it now.", **_json(_ref("Estimate")))  # type: ignore[arg-type]
    name = {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    state = _object(status={"type": "string"})
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "KVGate",
            "version": __version__,
            "description": "OpenAI's API in front of engines whose KV cache is accounted for.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {
            CHAT: _post("Answer a chat.", _BODIES[CHAT], passed, ENGINES),
            COMPLETIONS: _post("Complete a text.", _BODIES[COMPLETIONS], passed, ENGINES),
            EMBEDDINGS: _post("Embed texts.", _BODIES[EMBEDDINGS], vectors, ENGINES),
            ESTIMATE: _post(
                "What would become of a request now; nothing is sent.", "EstimateRequest", estimate, _LOOKS
            ),
            MODELS: _get("The models that are served.", _ref("Models")),
            f"{MODELS}/{{id}}": _get("One of them.", _ref("Model"), parameters=[name]),
            "/health": _get("200 while the process serves.", state, security=[]),
            "/ready": _get("200 unless it is shutting down.", state, security=[]),
        },
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


if __name__ == "__main__":
    json.dump(document(), sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")
