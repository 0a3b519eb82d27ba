"""`kvgate engine` as a process: it says where it listens, serves, and leaves on SIGTERM."""

import asyncio
import json
import signal
import sys

import aiohttp
import pytest

PROGRAM = "import typer; from gateway.cli.engine import engine; typer.run(engine)"


async def test_serves_until_sigterm() -> None:
    """One JSON object names the URL; SIGTERM with a stream open ends the process with 0."""
    arguments = ("--port", "0", "--kv-tokens", "1024", "--block-size", "32", "--model", "m", "--json")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, *arguments, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        facts = json.loads(await process.stdout.readline())
        assert (facts["kv_tokens"], facts["block_size"], facts["max_model_len"]) == (1024, 32, 1024)
        request = {"model": "m", "prompt": "x", "max_tokens": 900, "ignore_eos": True, "stream": True}
        async with (
            aiohttp.ClientSession(facts["url"]) as http,
            http.post("/v1/completions", json=request) as response,
        ):
            assert await response.content.readline()
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize("arguments", [("--profile", "abacus"), ("--kv-tokens", "8"), ("--speed", "0")])
async def test_wrong_usage_exits_2(arguments: tuple[str, str]) -> None:
    """An option that makes no engine is the user's mistake."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, "--port", "0", *arguments, stderr=asyncio.subprocess.PIPE
    )
    _, complaint = await process.communicate()
    assert process.returncode == 2
    assert complaint
