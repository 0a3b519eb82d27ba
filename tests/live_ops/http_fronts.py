"""nginx and HAProxy before a gateway, and what becomes of smuggling payloads that go through them."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.stand import gateway
from tests.faults import FaultyEngine, response
from tests.smuggler import PROBE, Connect, answers, exchange, to
from tests.smuggling import Payload, hidden

DIRECT = "direct"
PATH = "/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin"
START_MAX_S = 10.0
NGINX = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/errors;
events {{}}
http {{
    log_format seen $request; access_log {folder}/seen seen;
    client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
    uwsgi_temp_path {folder}; scgi_temp_path {folder};
    map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
    upstream gateway {{ server {gateway}; keepalive 4; }}
    server {{
        listen unix:{folder}/socket;
        location / {{
            proxy_pass http://gateway; proxy_http_version 1.1; proxy_request_buffering {buffering};
            proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade;
        }}
    }}
}}
"""
HAPROXY = """
global
    log stdout format raw local0
defaults
    mode http
    log global
    option httplog
    http-reuse always
    timeout connect 5s
    timeout client 5s
    timeout server 5s
    {option}
frontend clients
    bind unix@{folder}/socket
    default_backend gateway
backend gateway
    server gateway {gateway}
"""
FRONTS = {
    "nginx": ("nginx", NGINX.replace("{buffering}", "on")),
    "nginx-unbuffered": ("nginx", NGINX.replace("{buffering}", "off")),
    "haproxy": ("haproxy", HAPROXY.replace("{option}", "")),
    "haproxy-lenient": ("haproxy", HAPROXY.replace("{option}", "option accept-invalid-http-request")),
}


@asynccontextmanager
async def front(kind: str, url: str, folder: Path) -> AsyncIterator[Connect]:
    """Run this front before the gateway; it writes the first line of each request that it saw into `seen`."""
    tool, config = FRONTS[kind]
    program = shutil.which(tool, path=PATH) or tool
    path = folder / "config"
    path.write_text(config.format(folder=folder, gateway=url.removeprefix("http://")), "utf-8")
    command = [program, "-c", str(path), "-p", str(folder)] if tool == "nginx" else [program, "-db", "-f", str(path)]
    out = folder / ("out" if tool == "nginx" else "seen")
    with out.open("wb") as log:
        process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log)
    try:
        async with asyncio.timeout(START_MAX_S):
            while not (folder / "socket").exists():  # a file has no event
                assert process.returncode is None, out.read_text("utf-8")
                await asyncio.sleep(0.02)
        yield lambda: asyncio.open_unix_connection(folder / "socket")
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of the payloads."""

    payloads: int
    refused: int
    """Answered with an error first."""
    served: int
    """Answered otherwise first."""
    unanswered: int
    """Cut, or waiting for more of a body."""
    ran: frozenset[int]
    """Hidden requests of which the engine heard."""
    seen: frozenset[int]
    """Those that the front took for requests and sent itself."""
    faults: int
    """Mistakes of the gateway's own."""

    @property
    def desyncs(self) -> frozenset[int]:
        """Hidden requests that ran though the front had not sent them."""
        return self.ran - self.seen


async def smuggle(kind: str, folder: Path, payloads: Sequence[Payload]) -> Tally:
    """Send payloads through this front, after two requests in plain sight, the second of which must run."""
    control = 10**9
    plain = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}" + hidden(control)
    async with (
        FaultyEngine((response(b'{"data":[{"id":"m"}]}'),)) as engine,
        gateway({"name": "b0", "url": engine.url, "kind": "openai"}) as stand,
    ):
        async with AsyncExitStack() as stack:
            url = stand.running.api_url
            connect = to(url) if kind == DIRECT else await stack.enter_async_context(front(kind, url, folder))
            await exchange(connect, plain + PROBE)
            got = await answers(connect, payloads)
        ran = frozenset(int(n) for request in engine.requests for n in re.findall(rb"hidden-(\d+)", request.body))
        faults = len(stand.log_lines("internal_error"))
    log = "" if kind == DIRECT else (folder / "seen").read_text("latin-1")
    seen = frozenset(int(number) for number in re.findall(r"[?&]h=(\d+) HTTP", log))
    assert control in ran
    assert kind == DIRECT or control in seen
    first = [int(start[1]) for start in (re.match(rb"HTTP/1\.[01] (\d)", answer) for answer in got.values()) if start]
    refused = sum(number >= 4 for number in first)
    waiting = len(payloads) - len(first)
    return Tally(len(payloads), refused, len(first) - refused, waiting, ran - {control}, seen - {control}, faults)
