"""`kvgate serve` as a process: what it prints, how it ends, and what it never writes down."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from gateway.simulation.server import EngineOptions, RunningEngine, start_engine

CANARY = "the-canary-sings-at-dawn"
KEY = "sk-never-written-down"
START_MAX_S = 15.0
STOP_MAX_S = 10.0
FREE_PORTS = ("--port", "0", "--admin-port", "0")
LONG = {"model": "m", "prompt": CANARY, "max_tokens": 100, "ignore_eos": True, "stream": True}


@pytest.fixture
async def engine() -> AsyncIterator[RunningEngine]:
    """100 tokens take it 1.2 s."""
    async with start_engine(EngineOptions(model="m", kv_tokens=1024)) as running:
        yield running


@asynccontextmanager
async def serving(*args: object, **environ: str) -> AsyncIterator[Process]:
    """The command as a process, killed at the end if it still runs."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "gateway", "serve", *map(str, args)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | environ,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def started(process: Process) -> dict[str, str]:
    """The URLs that it prints with `--json` once it serves."""
    assert process.stdout is not None
    text = b""
    async with asyncio.timeout(START_MAX_S):
        while True:
            text += await process.stdout.readline()
            try:
                shown = json.loads(text)
            except json.JSONDecodeError:
                continue
            assert isinstance(shown, dict)
            return shown


async def ended(process: Process) -> tuple[int, str, str]:
    """Exit code, rest of standard output, standard error."""
    out, err = await asyncio.wait_for(process.communicate(), STOP_MAX_S)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def not_ready(http: aiohttp.ClientSession, url: str) -> int:
    """The status of `/ready` once it is not 200 any more."""
    async with asyncio.timeout(2):
        while (status := (await http.get(f"{url}/ready")).status) == 200:  # noqa: ASYNC110  # another process
            await asyncio.sleep(0.02)
    return status


async def test_the_start_table(engine: RunningEngine) -> None:
    """A person sees each backend with its pool, and the URLs to use; SIGTERM ends it with 0."""
    async with serving(engine.url, "http://127.0.0.1:9", *FREE_PORTS) as process:
        assert process.stdout is not None
        lines: list[str] = []
        async with asyncio.timeout(START_MAX_S):
            while not lines or not lines[-1].startswith("Metrics"):
                lines.append((await process.stdout.readline()).decode().rstrip())
        head, table, own, gone, *urls = lines
        assert head.startswith("kvgate ")
        assert table.split() == ["BACKEND", "KIND", "STATE", "MODEL", "KV", "CAPACITY", "HEADROOM"]
        assert own.split()[1:] == ["vllm", "ready", "m", "1,024", "tokens", "100%"]
        assert gone.split()[1:] == ["auto", "not", "reachable", "yet", "-", "-", "-"]
        assert [line.split()[0] for line in urls] == ["API", "Page", "State", "Metrics"]
        process.send_signal(signal.SIGTERM)
        code, out, err = await ended(process)
        assert (code, out) == (0, "")
        assert "Traceback" not in err


async def test_a_drain_lets_running_streams_end(engine: RunningEngine) -> None:
    """After SIGTERM new requests and `/ready` get 503, the stream comes to its `[DONE]`; nothing secret was written.

    Nor would it be if the process crashed: it leaves no core dump.
    """
    environ = {"OWN_KEY": KEY, "KVGATE_BACKENDS__0__API_KEY": "env:OWN_KEY", "KVGATE_TELEMETRY__INTERVAL_S": "0.1"}
    async with serving(engine.url, *FREE_PORTS, "--json", **environ) as process:
        shown = await started(process)
        if (limits := Path(f"/proc/{process.pid}/limits")).exists():
            assert re.search(r"^Max core file size +0 ", limits.read_text("utf-8"), re.MULTILINE)
        assert isinstance(shown["backends"], list)
        async with (
            aiohttp.ClientSession() as http,
            http.post(f"{shown['api']}/v1/completions", json=LONG) as stream,
        ):
            assert stream.status == 200
            first = await stream.content.readany()
            process.send_signal(signal.SIGTERM)
            assert await not_ready(http, shown["api"]) == 503
            refused = await http.post(f"{shown['api']}/v1/completions", json=LONG)
            assert (refused.status, (await refused.json())["error"]["code"]) == (503, "draining")
            assert int(refused.headers["retry-after"]) >= 1
            assert refused.headers["connection"] == "close"
            pages = [await (await http.get(shown["admin"] + path)).text() for path in ("/metrics", "/api/v1/state")]
            assert (first + await stream.content.read()).endswith(b"data: [DONE]\n\n")
        code, _, err = await ended(process)
    assert code == 0
    lines = [json.loads(line) for line in err.splitlines()]
    assert [line["code"] for line in lines if line["event"] == "request"] == [503, 200]
    assert [line["complete"] for line in lines if line["event"] == "stopped"] == [True]
    for text in (err, *pages):
        assert CANARY not in text
        assert KEY not in text


async def read_into(text: bytearray, stream: aiohttp.ClientResponse) -> None:
    """Take what comes until it ends."""
    async for data in stream.content.iter_any():
        text += data


@pytest.mark.parametrize("drain_max_s", [600, 0.2], ids=["signal", "time"])
async def test_what_does_not_end_in_time_is_cut_openly(engine: RunningEngine, drain_max_s: float) -> None:
    """After a second signal, or when the time is up: an error event, a cut, and exit 0 all the same."""
    async with serving(engine.url, *FREE_PORTS, "--json", KVGATE_DRAIN_MAX_S=str(drain_max_s)) as process:
        shown = await started(process)
        async with aiohttp.ClientSession() as http:
            body = LONG | {"max_tokens": 900}
            async with http.post(f"{shown['api']}/v1/completions", json=body) as stream:
                text = bytearray(await stream.content.readany())
                process.send_signal(signal.SIGTERM)
                if drain_max_s > 1:
                    assert await not_ready(http, shown["admin"]) == 503
                    process.send_signal(signal.SIGTERM)
                with pytest.raises(aiohttp.ClientPayloadError):
                    await asyncio.wait_for(read_into(text, stream), STOP_MAX_S)
        (*_, last) = text.strip().split(b"\n\n")
        assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "draining"
        assert b"[DONE]" not in text
        code, _, err = await ended(process)
    assert code == 0
    assert "Traceback" not in err
    lines = [json.loads(line) for line in err.splitlines()]
    assert [(line["code"], line["error"]) for line in lines if line["event"] == "request"] == [(503, "draining")]
    assert [line["complete"] for line in lines if line["event"] == "stopped"] == [False]


async def test_a_hangup_reads_the_configuration_anew(engine: RunningEngine, tmp_path: Path) -> None:
    """A bad one is told and changes nothing; the gateway is asked for both by `kvgate reload` too."""
    file = tmp_path / "kvgate.yaml"
    good = f"backends:\n- {{name: a, url: '{engine.url}'}}\nlog: {{format: json}}\n"
    file.write_text(good)
    async with serving("-c", file, *FREE_PORTS, "--json") as process:
        shown = await started(process)
        assert process.stderr is not None

        async def line(event: str) -> dict[str, object]:
            """The next line of the log with this event."""
            assert process.stderr is not None
            async with asyncio.timeout(START_MAX_S):
                while True:
                    found = json.loads(await process.stderr.readline())
                    if found["event"] == event:
                        assert isinstance(found, dict)
                        return found

        file.write_text(good + "mode: observe\n")
        process.send_signal(signal.SIGHUP)
        assert (await line("config_reloaded"))["changed"] == ["mode"]
        file.write_text(good + "mood: observe\n")
        process.send_signal(signal.SIGHUP)
        assert (await line("config_fault"))["path"] == "mood"
        reload = [sys.executable, "-m", "gateway", "reload", "--url", shown["admin"]]
        asked = await asyncio.create_subprocess_exec(*reload, stderr=asyncio.subprocess.PIPE)
        _, err = await asked.communicate()
        assert (asked.returncode, err.decode().startswith("mood: unknown key; did you mean 'mode'?")) == (78, True)
        async with aiohttp.ClientSession() as http, http.get(f"{shown['admin']}/api/v1/state") as answer:
            assert (await answer.json())["mode"] == "observe"


async def test_a_port_that_is_taken() -> None:
    """One clear line and exit 1."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        async with serving("http://127.0.0.1:9", "--port", port, "--admin-port", 0) as process:
            code, out, err = await ended(process)
    assert (code, out) == (1, "")
    (line,) = err.splitlines()
    assert line.startswith("Cannot start: ")
    assert "address already in use" in line
    assert str(port) in line


@pytest.mark.parametrize("as_json", [True, False])
async def test_a_bad_configuration(tmp_path: Path, as_json: bool) -> None:
    """Exit 78 with the full path of the key, for people and for programs."""
    file = tmp_path / "kvgate.yaml"
    file.write_text("backends:\n- {url: 'http://127.0.0.1:9', kv: {capacity_token: 5}}\n")
    async with serving("-c", file, *(["--json"] if as_json else [])) as process:
        code, out, err = await ended(process)
    assert code == 78
    if as_json:
        assert [problem["path"] for problem in json.loads(out)["problems"]] == ["backends.0.kv.capacity_token"]
    else:
        assert "backends.0.kv.capacity_token" in err
    assert "Traceback" not in err


async def test_nothing_to_serve() -> None:
    """Wrong usage: exit 2 and what to do."""
    async with serving(*FREE_PORTS) as process:
        code, _, err = await ended(process)
    assert code == 2
    assert "Give a URL" in err


async def test_a_reader_of_the_output_that_is_gone(engine: RunningEngine) -> None:
    """It serves on when nobody reads its log any more."""
    async with serving(engine.url, *FREE_PORTS, "--json") as process:
        shown = await started(process)
        assert process.stderr is not None
        process.stderr._transport.close()  # type: ignore[attr-defined]  # the reading end of the pipe
        async with aiohttp.ClientSession() as http:
            for _ in range(5):
                body = {"model": "m", "prompt": "x", "max_tokens": 1}
                assert (await http.post(f"{shown['api']}/v1/completions", json=body)).status == 200
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), STOP_MAX_S) == 0
