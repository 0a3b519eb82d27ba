"""Nothing but the API is behind the API's port: no path of an engine, of another gateway or of the admin port."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.api.served import Served
from tests.e2e.stand import gateway
from tests.faults import FaultyEngine, response

LISTING = response(b'{"data":[{"id":"m"}]}')
LINES = (Path(__file__).parent.parent / "data/paths_elsewhere.txt").read_text("utf-8").splitlines()
PATHS = [f"/{path}" for line in LINES if not line.startswith("#") for path in line.split()]
"""Of engines, other gateways, our own admin port, and twisted spellings of what does exist."""
HEADERS = ("Content-Type: application/json", "Authorization: Bearer nobody")


async def test_no_path_but_the_apis_leads_anywhere() -> None:
    """Each is a 404 in OpenAI's form, by GET and by POST, and no engine is asked anything by it."""
    async with FaultyEngine((LISTING,)) as engine:
        backend = {"name": "b", "url": engine.url, "kind": "openai"}
        async with gateway(backend, telemetry={"interval_s": 60}) as stand:
            address = urlsplit(stand.running.api_url)
            assert address.hostname
            assert address.port
            api = Served(address.hostname, address.port)
            found: dict[str, tuple[int, str]] = {}
            for path, method in itertools.product(PATHS, ("GET", "POST")):
                answer = await api.ask(f"{method} {path} HTTP/1.1", *HEADERS, body=b"{}" if method == "POST" else b"")
                error = json.loads(answer.body)["error"]
                assert error["type"] == "invalid_request_error"
                found[f"{method} {path}"] = answer.status, error["code"]
    assert len(set(PATHS)) >= 300
    assert {asked: told for asked, told in found.items() if told != (404, "unknown_url")} == {
        "GET /v1/models/": (404, "model_not_found"),
        "POST /v1/models/": (405, "method_not_allowed"),
    }
    assert {request.line for request in engine.requests} == {b"GET /v1/models HTTP/1.1"}


@pytest.mark.parametrize(
    "method", ["PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "TRACE", "CONNECT", "PROPFIND", "PURGE"]
)
async def test_no_other_method_does_anything(method: str) -> None:
    """Neither on paths that exist nor on those that do not."""
    async with FaultyEngine((LISTING,)) as engine:
        backend = {"name": "b", "url": engine.url, "kind": "openai"}
        async with gateway(backend, telemetry={"interval_s": 60}) as stand:
            for path in ("/v1/models", "/v1/completions", "/v1/estimate", "/health", "/metrics"):
                async with stand.http.request(method, path) as answer:
                    assert answer.status in (400, 404, 405), path
    assert {request.line for request in engine.requests} == {b"GET /v1/models HTTP/1.1"}
