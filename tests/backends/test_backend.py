import contextlib
import json
from dataclasses import replace

import pytest

from estimator import EstimatorError
from gateway.backends.backend import Backend
from gateway.backends.engine import TelemetryError
from gateway.backends.settings import BackendSettings, KvSettings
from gateway.backends.upstream import FailureKind, UpstreamFailure
from gateway.domain import BackendLimits, BackendSpec
from tests.backends.pages import recorded
from tests.faults import FaultyEngine, response

NOT_FOUND = (response(b"{}", status=404),)
METRICS = (response(recorded("vllm/metrics-busy.txt"), headers=b"Content-Type: text/plain\r\n"),)
MODELS = (response(recorded("vllm/models.json")),)
VERSION = (response(recorded("vllm/version.json")),)


async def test_a_stated_kind_is_read_over_http() -> None:
    """The way of a look: paths, our headers, one connection."""
    async with FaultyEngine(METRICS, MODELS, VERSION) as server:
        backend = Backend(BackendSettings("one", server.url, "vllm", api_key="secret"))
        reading = await backend.read(5.0)
        await backend.aclose()
    assert (reading.backend, reading.engine_version) == ("one", "0.32.0")
    assert reading.models == {"tiny"}
    assert [request.line.split()[1] for request in server.requests] == [b"/metrics", b"/v1/models", b"/version"]
    assert {request.headers[b"authorization"] for request in server.requests} == {b"Bearer secret"}
    assert {request.headers[b"accept-encoding"] for request in server.requests} == {b"identity"}
    assert server.connections == 1


async def test_an_unknown_kind_is_found_by_the_first_look_that_succeeds() -> None:
    """It stays "auto" while the server is not ready, and is never asked again afterwards."""
    async with FaultyEngine((response(b"", status=503),), METRICS, METRICS, MODELS, VERSION, METRICS) as server:
        backend = Backend(BackendSettings("one", server.url))
        with pytest.raises(TelemetryError):
            await backend.read(0.0)
        assert (backend.kind, backend.listed, backend.calibration) == ("auto", (), None)
        await backend.read(1.0)
        assert (backend.kind, backend.hosted) == ("vllm", False)
        await backend.read(2.0)
        await backend.aclose()
    assert len(server.requests) == 6


async def test_an_unknown_kind_that_turns_out_to_be_hosted_changes_its_spec() -> None:
    """Admission must then be told anew."""
    async with FaultyEngine(NOT_FOUND, NOT_FOUND, MODELS) as server:
        backend = Backend(BackendSettings("one", server.url, spill_only=True))
        before = backend.spec
        await backend.read(0.0)
        await backend.aclose()
    assert before == BackendSpec("one", hosted=False, spill_only=True)
    assert backend.spec == BackendSpec("one", hosted=True, spill_only=True)


async def test_llamacpp_gets_a_connection_for_each_request() -> None:
    """Its server closes kept ones without a word; all others are reused."""
    settings = BackendSettings("one", "http://127.0.0.1:1", "llamacpp")
    assert b"Connection: close\r\n" in Backend(settings).headers("r", stream=True)
    assert b"Connection:" not in Backend(replace(settings, kind="vllm")).headers("r", stream=True)


async def test_few_files_leave_few_connections_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """What idles is missing where clients come; with files enough an engine's connections are all kept."""
    idle = []
    for files in (32, 1 << 20):
        monkeypatch.setattr("gateway.backends.backend.files_max", lambda files=files: files)
        async with FaultyEngine((response(b"{}"),)) as server, contextlib.AsyncExitStack() as stack:
            backend = Backend(BackendSettings("one", server.url, "vllm"))
            stack.push_async_callback(backend.aclose)
            async with contextlib.AsyncExitStack() as requests:
                for _ in range(5):
                    exchange = await requests.enter_async_context(backend.exchange("/", b"", b"{}"))
                    await exchange.head()
                    await exchange.read(100)
            idle.append(backend._upstream.idle_connections)
    assert idle == [2, 5]


async def test_nobody_listens() -> None:
    """The failure says that nothing was sent."""
    async with FaultyEngine(NOT_FOUND) as server:
        url = server.url
    backend = Backend(BackendSettings("one", url))
    with pytest.raises(UpstreamFailure) as failure:
        await backend.read(0.0)
    assert failure.value.kind is FailureKind.CONNECT
    await backend.aclose()


async def test_a_request_carries_our_headers_and_no_others() -> None:
    """Built from scratch: what the client sent cannot be among them."""
    async with FaultyEngine((response(b'{"ok":1}'),)) as server:
        backend = Backend(BackendSettings("one", server.url, "vllm", {"public": "own"}, api_key="secret"))
        trace = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
        headers = backend.headers("req-1", stream=True, traceparent=trace, tracestate="a=1")
        async with backend.exchange("/v1/chat/completions", headers, b"{}") as exchange:
            await exchange.head()
            assert json.loads(await exchange.read(100)) == {"ok": 1}
        await backend.aclose()
    request = server.requests[0]
    assert request.line.startswith(b"POST /v1/chat/completions ")
    assert set(request.headers) == {
        b"host",
        b"accept-encoding",
        b"user-agent",
        b"authorization",
        b"content-type",
        b"accept",
        b"x-request-id",
        b"traceparent",
        b"tracestate",
        b"content-length",
    }
    assert request.headers[b"accept"] == b"text/event-stream"
    assert request.headers[b"user-agent"].startswith(b"kvgate/")
    assert (backend.engine_model("public"), backend.engine_model("unmapped")) == ("own", "unmapped")


@pytest.mark.parametrize("bad", ["", "a b", "a\r\nX-Evil: 1", "é", "x" * 129])
def test_values_that_would_break_a_header_are_never_sent(bad: str) -> None:
    """The caller checks request ids; this is the last door."""
    backend = Backend(BackendSettings("one", "http://127.0.0.1:1", "vllm"))
    assert b"Authorization" not in backend.headers("good", stream=False)
    with pytest.raises(ValueError, match="never sent"):
        backend.headers(bad, stream=False)
    with pytest.raises(ValueError, match="never sent"):
        backend.headers("good", stream=False, traceparent=bad)
    with pytest.raises(ValueError, match="never sent"):
        backend.headers("good", stream=False, tracestate=bad + "\n" * 4097)


def test_bad_settings() -> None:
    """Each is refused at the start, and the key is not shown."""
    with pytest.raises(ValueError, match="api_key of backend one") as error:
        Backend(BackendSettings("one", "http://h", api_key="a\nb"))
    assert "a\nb" not in str(error.value)
    with pytest.raises(ValueError, match="base URL"):
        Backend(BackendSettings("one", "ftp://h"))
    with pytest.raises(EstimatorError):
        Backend(BackendSettings("one", "http://h", kv=KvSettings(model_config="no/such-model")))


def test_a_secret_is_not_shown() -> None:
    """Neither in the settings' repr nor through the limits beside it."""
    settings = BackendSettings("one", "http://h", api_key="secret", limits=BackendLimits(60, 1000))
    assert "secret" not in repr(settings)
    assert Backend(settings).spec.limits == BackendLimits(60, 1000)
