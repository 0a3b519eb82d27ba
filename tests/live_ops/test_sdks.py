"""Real client libraries, each in a process of its own: none of them takes a stream that died for one that ended."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from tests.e2e.dying import CLEAN_END, DEATHS, KILLED, STALLED, TEXT, WELL, DyingEngine, dying

pytestmark = [pytest.mark.ops, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "tests" / "live_ops" / "sdks"
INSTALLED = ROOT / ".venv-sdks"
REPEATS = 16
"""Times each death is died, so that for all clients together it is about a thousand streams."""
COMMANDS = {
    "openai-python": (INSTALLED / "langchain" / "bin" / "python", SCRIPTS / "ask_openai.py"),
    "LangChain": (INSTALLED / "langchain" / "bin" / "python", SCRIPTS / "ask_langchain.py"),
    "LlamaIndex": (INSTALLED / "llamaindex" / "bin" / "python", SCRIPTS / "ask_llamaindex.py"),
    "openai-node": (Path(shutil.which("node") or "node"), INSTALLED / "node" / "ask_openai.mjs"),
}


@pytest.fixture(params=COMMANDS)
def command(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """What asks with one of the libraries."""
    name: str = request.param
    if not all(path.exists() for path in COMMANDS[name]):
        pytest.skip(f"{name} is not here; tests/live_ops/sdks/install.sh brings it")
    return tuple(map(str, COMMANDS[name]))


async def answers(command: tuple[str, ...], url: str, *prompts: str) -> list[tuple[str, str, str | None]]:
    """Of each prompt: itself, the text that came, and the error raised, if there was one."""
    process = await asyncio.create_subprocess_exec(*command, f"{url}/v1", *prompts, stdout=asyncio.subprocess.PIPE)
    try:
        out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0
    lines = [json.loads(line) for line in out.splitlines()]
    return [(line["prompt"], line["text"], line["raised"]) for line in lines]


async def test_no_death_passes_for_an_end(command: tuple[str, ...]) -> None:
    """Each death raises, every time; whole answers, before and after, are whole."""
    often = [way for way in DEATHS if way not in (STALLED, KILLED)] * REPEATS
    async with dying() as (stand, _engine):
        first, *died, last = await answers(command, stand.running.api_url, WELL, *often, STALLED, KILLED, WELL)
    assert first == last == (WELL, TEXT, None)
    assert len(died) == len(often) + 2
    assert [(way, text) for way, text, raised in died if raised is None] == []


async def test_without_the_gateway_a_clean_end_passes_for_all(command: tuple[str, ...]) -> None:
    """What all this is for: asked directly, each library is content with two words of three."""
    async with DyingEngine() as engine:
        (well, died) = await answers(command, engine.url, WELL, CLEAN_END)
    assert well == (WELL, TEXT, None)
    assert died == (CLEAN_END, TEXT.removesuffix("three"), None)
