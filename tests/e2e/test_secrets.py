"""No secret comes out anywhere, whatever happens; and nothing of a client's own headers goes in."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
import yaml
from structlog.testing import capture_logs

from gateway.admission.admission import Admission
from gateway.app import run
from gateway.config import ConfigError, load_config
from gateway.config.source import ConfigSource
from gateway.relay import Relay
from gateway.reporting.logs import configure
from tests.cli.command import kvgate
from tests.e2e.stand import Answer, Stand, gateway, logs_into
from tests.faults import FAULTS, Answer as Played, FaultyEngine, Step, response

TENANT, BACKEND, ADMIN, LEDGER = ("sk-tenant-4f1c", "sk-backend-9b7e", "admin-token-3d5a-long", "ledger-password-77c2")
NEXT_TENANT, NEXT_ADMIN = "sk-tenant-next-8e21", "admin-token-next-6c90"
WRONG = "sk-somebody-elses-51f0"
CLIENTS = "session=client-cookie-a9d3"
SECRETS = (TENANT, BACKEND, ADMIN, LEDGER, NEXT_TENANT, NEXT_ADMIN, WRONG, CLIENTS)
KEY = {"authorization": f"Bearer {TENANT}"}
OPERATOR = {"authorization": f"Bearer {ADMIN}"}
BODY: dict[str, object] = {"model": "m", "prompt": "x", "max_tokens": 5}
LISTING = response(b'{"data":[{"id":"m"}]}')
GOOD = response(
    b'{"choices":[{"index":0,"text":"y"}],"usage":{"prompt_tokens":1,"completion_tokens":5,"total_tokens":6}}'
)
DENIED = response(json.dumps({"error": {"message": f"Incorrect API key provided: {BACKEND}"}}).encode(), status=401)
PAGES = (
    "/",
    "/metrics",
    "/api/v1/state",
    "/api/v1/decisions",
    "/api/v1/decisions/none",
    "/health",
    "/ready",
    "/nothing",
)


OPEN = ("/", "/health", "/ready")
"""To whoever reaches the port."""


@dataclass
class House:
    """A gateway with one of each secret, and everything that it ever said."""

    stand: Stand
    engine: FaultyEngine
    folder: Path
    said: list[str] = field(default_factory=list)

    async def ask(self, headers: dict[str, str] | None = None, path: str = "/v1/completions", **fields: object) -> int:
        """A request of a client; its answer is noted."""
        with suppress(aiohttp.ClientError):
            answer = await self.stand.post(path, BODY | fields, KEY | (headers or {}))
            self.note(answer)
            return answer.status
        return 0

    async def operate(self, method: str, path: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
        """A request to the admin port; its answer is noted."""
        url = self.stand.running.admin_url + path
        async with self.stand.http.request(method, url, headers=OPERATOR if headers is None else headers) as answer:
            text = await answer.text()
            self.said += [text, str(answer.headers)]
            return answer.status, text

    def note(self, answer: Answer) -> None:
        self.said += [answer.body.decode(), str(answer.headers)]

    def write(self, **more: object) -> None:
        """Its configuration."""
        tree = {
            "listen": {"port": 0, "admin_port": 0, "admin_token": f"file:{self.folder}/admin"},
            "telemetry": {"interval_s": 60},
            "backends": [{"name": "b", "kind": "openai", "url": self.engine.url, "api_key": f"file:{self.folder}/own"}],
            "tenants": [{"name": "team", "keys": [f"file:{self.folder}/tenant"]}],
            "ledger": {"url": "redis://127.0.0.1:9/0", "password": f"file:{self.folder}/ledger"},
            "journal": {"path": str(self.folder / "journal")},
            **more,
        }
        (self.folder / "kvgate.yaml").write_text(yaml.safe_dump(tree))

    def secrets(self, tenant: str, admin: str) -> None:
        """Its files of secrets."""
        for name, value in (("tenant", tenant), ("admin", admin), ("own", BACKEND), ("ledger", LEDGER)):
            (self.folder / name).write_text(value)


@asynccontextmanager
async def house(folder: Path, *answers: Played) -> AsyncIterator[House]:
    async with FaultyEngine((LISTING,), *answers) as engine:
        built = House(stand=None, engine=engine, folder=folder)  # type: ignore[arg-type]  # comes with the gateway
        built.secrets(TENANT, ADMIN)
        built.write()
        async with gateway(source=ConfigSource(folder / "kvgate.yaml"), settles=False) as built.stand:
            yield built


def mistaken(*_: object) -> None:
    """A mistake among values that nobody should see."""
    values = SECRETS
    raise RuntimeError(len(values))


def leaks(*texts: str) -> set[str]:
    return {secret for secret in SECRETS for text in texts if secret in text}


async def test_no_secret_comes_out_whatever_happens(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Answers, errors and their headers, logs, pages, the journal, tracebacks, `config show`, refused reloads."""
    monkeypatch.setattr("gateway.admin.routes.RENDER_EVERY_S", 0.0)
    caplog.set_level(logging.DEBUG)
    cut = FAULTS["reset_in_body"]
    played = ((GOOD,), cut, (DENIED,), (Step.RESET,), (response(b"{", status=500),), (GOOD,))
    with capture_logs() as lines:
        async with house(tmp_path, *played) as built:
            assert await built.ask({"cookie": CLIENTS}) == 200
            await built.ask({"x-kvgate-priority": "batch"}, stream=True)
            for _ in range(3):
                assert await built.ask() == 502
            assert await built.ask({"authorization": f"Bearer {WRONG}"}) == 401
            assert await built.ask({"authorization": WRONG}, path=f"/v1/completions?api_key={WRONG}") == 401
            assert await built.ask(model=f"m-{CLIENTS.partition('=')[0]}") == 404
            assert await built.ask(path=f"/v1/{'nothing'}") == 404

            async def fails(*_: object) -> None:
                authorization = KEY["authorization"]
                raise RuntimeError(f"{BACKEND} {authorization}")

            with monkeypatch.context() as patched:
                patched.setattr(Relay, "carry", fails)
                patched.setattr(Relay, "estimate", fails)
                assert await built.ask(path=f"/v1/completions?key={TENANT}") == 500
                assert await built.ask() == 500
            for path in PAGES:
                assert (await built.operate("GET", path))[0] in (200, 404)
                stranger = {"authorization": f"Bearer {WRONG}", "cookie": CLIENTS}
                assert (await built.operate("GET", path, stranger))[0] == (200 if path in OPEN else 401)
            with monkeypatch.context() as patched:
                patched.setattr(Admission, "snapshot", mistaken)
                assert (await built.operate("GET", "/api/v1/state"))[0] == 500
            built.write(backends=[{"name": "b", "url": built.engine.url, "api_key": BACKEND}], ledger=LEDGER)
            status, told = await built.operate("POST", "/-/reload")
            assert (status, "never written here" in told) == (400, True)
            built.write()
            for command in (("show", "--json"), ("show",)):
                shown = await asyncio.to_thread(kvgate, capsys, "config", *command, "-c", tmp_path / "kvgate.yaml")
                assert (shown.code, "***" in shown.out) == (0, True)
                built.said += [shown.out, shown.err]
            built.said += [repr(built.stand.running.config), repr(built.stand.running), str(lines), caplog.text]
            built.said += [built.stand.log.getvalue(), *map(str, asyncio.all_tasks())]
            mistakes = [line for line in lines if line["event"] == "internal_error"]
            assert len(mistakes) == 2
    built.said += [path.read_text() for path in tmp_path.glob("journal*")]
    assert (tmp_path / "journal").stat().st_size > 0
    assert leaks(*built.said) == set()
    assert leaks(*(str(request.headers) for request in built.engine.requests)) == {BACKEND}


async def test_nothing_of_a_clients_headers_reaches_an_engine(tmp_path: Path) -> None:
    """Headers of requests to engines are made, not copied: ours, and ids that were checked."""
    sent = {
        "cookie": CLIENTS,
        "x-api-key": WRONG,
        "x-forwarded-for": "10.9.8.7",
        "forwarded": "for=10.9.8.7",
        "proxy-authorization": f"Basic {WRONG}",
        "x-request-id": "mine-1",
        "user-agent": "client-agent",
        "accept-language": "tlh",
        "openai-organization": "org-of-the-client",
        "x-kvgate-priority": "batch",
        "x-stainless-lang": "python",
        "connection": "keep-alive, x-hop",
        "x-hop": "hop",
    }
    async with house(tmp_path, (GOOD,)) as built:
        assert await built.ask(sent) == 200
        assert await built.ask(sent, stream=True) == 502
        requests = [request for request in built.engine.requests if request.line.startswith(b"POST")]
    assert len(requests) == 2
    for request in requests:
        assert request.headers[b"authorization"] == f"Bearer {BACKEND}".encode()
        assert request.headers[b"x-request-id"] == b"mine-1"
        assert set(request.headers) <= {
            *(
                b"host",
                b"authorization",
                b"accept",
                b"accept-encoding",
                b"content-type",
                b"content-length",
                b"user-agent",
            ),
            *(b"x-request-id", b"traceparent", b"connection"),
        }
        values = [value for name, value in request.headers.items() if name != b"x-request-id"]
        assert [value for value in values for mine in sent.values() if mine.encode() in value] == []


async def test_secrets_are_rotated_by_a_reload(tmp_path: Path) -> None:
    """The old ones open nothing from then on; one that is missing changes nothing."""
    async with house(tmp_path, (GOOD,)) as built:
        assert await built.ask() == 200
        built.secrets(NEXT_TENANT, NEXT_ADMIN)
        status, told = await built.operate("POST", "/-/reload")
        assert (status, json.loads(told)["changed"]) == (200, ["listen.admin_token", "tenants.team"])
        following = {"authorization": f"Bearer {NEXT_ADMIN}"}
        assert [(await built.operate("GET", "/api/v1/state", key))[0] for key in (OPERATOR, following)] == [401, 200]
        assert await built.ask() == 401
        assert await built.ask({"authorization": f"Bearer {NEXT_TENANT}"}) == 200
        (tmp_path / "admin").unlink()
        status, told = await built.operate("POST", "/-/reload", following)
        assert (status, "listen.admin_token" in told) == (400, True)
        assert (await built.operate("GET", "/api/v1/state", following))[0] == 200
    assert leaks(*built.said) == set()


@pytest.mark.parametrize("style", ["json", "console"])
def test_a_traceback_in_the_log_shows_no_values(style: str) -> None:
    """Neither for people nor as JSON: values of variables are keys and prompts."""
    before = logging.getLogger().handlers[:]
    stream = io.StringIO()
    logs = configure("debug", style, stream)  # type: ignore[arg-type]
    try:
        try:
            mistaken()
        except RuntimeError:
            logging.getLogger("aiohttp.server").exception("Error handling request")
    finally:
        logs.close()
        logging.getLogger().handlers[:] = before
    assert "RuntimeError: 8" in stream.getvalue()
    assert leaks(stream.getvalue()) == set()


def test_no_default_is_open() -> None:
    """What nobody configured listens on this machine alone, and lets nothing through that it does not know."""
    config = load_config(environ={})
    assert (config.listen.host, config.listen.admin_host) == ("127.0.0.1", "127.0.0.1")
    assert config.input.unknown_fields == "reject"
    assert (config.input.extra_fields, config.input.allow_remote_media) == ((), ())
    assert not config.metrics.tenants


async def test_a_passed_admin_socket_that_others_reach_needs_the_token() -> None:
    """Whoever handed it over: nothing is served before."""

    class Elsewhere(socket.socket):
        def getsockname(self) -> tuple[str, int]:
            return "10.0.0.1", 8081

    config = load_config(overrides={"listen": {"port": 0}, "backends": [{"url": "http://127.0.0.1:9"}]}, environ={})
    with Elsewhere() as passed, pytest.raises(ConfigError, match=r"listen\.admin_token: is required .* 10\.0\.0\.1"):
        async with run(config, logs_into(io.StringIO()), {"admin": passed}):
            pytest.fail("it has started")
