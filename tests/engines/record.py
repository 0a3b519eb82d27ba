"""Records what real engines answer, as test data for the rooms that read it: `python -m tests.engines.record`.

Each page goes to `tests/data/engines/<engine>/<name>[.<status>].<ending>` as it came, except that the metrics lose the
families of the Python runtime, and that a list says nothing of where its model lay.
"""

from __future__ import annotations

import asyncio
import re
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import msgspec

from tests.engines import gguf_model, tiny_model
from tests.engines.servers import (
    MODEL_NAME,
    REPOSITORY,
    LlamacppOptions,
    VllmOptions,
    llamacpp_server,
    vllm_server,
)

FOLDER = REPOSITORY / "tests" / "data" / "engines"
ANSWER_WAIT_MAX_S = 60.0
BURSTS = 5
ENDINGS = {"application/json": "json", "text/event-stream": "sse", "text/plain": "txt"}
NOISE = re.compile(rb"^(# (HELP|TYPE) )?(python_|http_)[^\n]*\n", re.MULTILINE)

PROMPT = list(range(tiny_model.FIRST_TEXT_TOKEN, tiny_model.FIRST_TEXT_TOKEN + 32))
SHORT: dict[str, object] = {"model": MODEL_NAME, "max_tokens": 4, "ignore_eos": True}
LONG: dict[str, object] = {"model": MODEL_NAME, "max_tokens": 200, "ignore_eos": True, "prompt": PROMPT}
CHAT = {**SHORT, "messages": [{"role": "user", "content": "the model"}]}
TEXT = {**SHORT, "prompt": PROMPT}
STREAM = {"stream": True}
WITH_USAGE = {**STREAM, "stream_options": {"include_usage": True}}
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]
QUESTIONS: dict[str, tuple[str, dict[str, object] | bytes]] = {
    "chat": ("chat/completions", CHAT),
    "chat-stream": ("chat/completions", CHAT | STREAM),
    "chat-stream-usage": ("chat/completions", CHAT | WITH_USAGE),
    "chat-tools": ("chat/completions", CHAT | {"tools": TOOLS}),
    "completion": ("completions", TEXT),
    "completion-n2": ("completions", TEXT | {"n": 2}),
    "completion-n2-stream-usage": ("completions", TEXT | WITH_USAGE | {"n": 2}),
    "completion-stream": ("completions", TEXT | STREAM),
    "completion-stream-usage": ("completions", TEXT | WITH_USAGE),
    "bad-json": ("chat/completions", b'{"model":'),
    "no-messages": ("chat/completions", SHORT),
    "prompt-too-long": ("completions", TEXT | {"prompt": PROMPT * 40}),
    "prompt-too-long-stream": ("completions", TEXT | STREAM | {"prompt": PROMPT * 40}),
    "max-tokens-too-large": ("completions", TEXT | {"max_tokens": 5000}),
    "unknown-model": ("completions", TEXT | {"model": "nobody"}),
}


@dataclass(frozen=True, slots=True)
class Page:
    """An answer: status, ending of the file that it becomes, body."""

    status: int
    ending: str
    body: bytes


def main() -> None:
    """Records llama.cpp, and vLLM unless told `llamacpp`."""
    with tempfile.TemporaryDirectory() as folder:
        _record_llamacpp(Path(folder))
        if sys.argv[1:] != ["llamacpp"]:
            _record_vllm(Path(folder))


def _record_llamacpp(folder: Path) -> None:
    model = gguf_model.write_gguf(folder / "model.gguf")
    pages = ("props", "slots", "metrics", "v1/models", "health")
    with llamacpp_server(model, folder / "log", LlamacppOptions(slots=4)) as url:
        _record_states("llamacpp", url, pages, suffix="-unified")
        _record_questions("llamacpp", url)
    with llamacpp_server(model, folder / "log", LlamacppOptions(slots=4, unified=False)) as url:
        _record_states("llamacpp", url, pages, suffix="-split")
    with llamacpp_server(model, folder / "log", LlamacppOptions(slots=8)) as url:
        for name, body in (("overflow", LONG), ("overflow-stream", LONG | STREAM)):
            with _many(url, body, requests=8) as answers:
                _write("llamacpp", name, answers()[0])


def _record_vllm(folder: Path) -> None:
    model = tiny_model.write_huggingface(folder / "model")
    with vllm_server(model, folder / "log") as url:
        _record_states("vllm", url, ("metrics", "v1/models", "version", "health"))
        _record_questions("vllm", url)
    with vllm_server(model, folder / "log", VllmOptions(sequences_max=1, queued_max=1)) as url:
        _record_overload(url)


def _record_overload(url: str) -> None:
    """Streams that come together can all be taken before any is counted: the refusal of the others follows a 200."""
    streams = [
        page
        for _ in range(BURSTS)
        for page in asyncio.run(_burst(f"{url}/v1/completions", msgspec.json.encode(LONG | STREAM), requests=8))
        if b'"error"' in page.body
    ]
    _write("vllm", "overload-stream", min(streams, key=_status))
    with _many(url, LONG, requests=16) as answers:
        _write("vllm", "overload", max(answers(), key=_status))


def _record_states(engine: str, url: str, pages: tuple[str, ...], suffix: str = "") -> None:
    """The pages of an engine at rest, at work and after, where they differ."""
    for path in pages:
        _write(engine, path.rpartition("/")[2] + suffix, _ask(f"{url}/{path}"))
    # Three are at work for long when a short fourth has been answered.
    with _many(url, LONG, requests=3) as answers:
        _ask(f"{url}/v1/completions", msgspec.json.encode(TEXT))
        for path in {"metrics", "slots"} & {*pages}:
            _write(engine, f"{path}{suffix}-busy", _ask(f"{url}/{path}"))
        answers()
    for path in {"metrics", "slots"} & {*pages}:
        _write(engine, f"{path}{suffix}-after", _ask(f"{url}/{path}"))


def _record_questions(engine: str, url: str) -> None:
    for name, (path, body) in QUESTIONS.items():
        text = body if isinstance(body, bytes) else msgspec.json.encode(body)
        _write(engine, name, _ask(f"{url}/v1/{path}", text))


@contextmanager
def _many(url: str, body: dict[str, object], requests: int) -> Iterator[Callable[[], list[Page]]]:
    """Sends the same question many times at once; the function it yields waits for the answers."""
    text = msgspec.json.encode(body)
    with ThreadPoolExecutor(requests) as pool:
        asked = [pool.submit(_ask, f"{url}/v1/completions", text) for _ in range(requests)]
        yield lambda: [answer.result() for answer in asked]


def _status(page: Page) -> int:
    return page.status


async def _burst(url: str, body: bytes, requests: int) -> list[Page]:
    """Sends the same question from one event loop, closer together than threads can."""
    async with aiohttp.ClientSession(headers={"Content-Type": "application/json"}) as session:

        async def one() -> Page:
            async with session.post(url, data=body) as answer:
                return Page(answer.status, ENDINGS[answer.content_type], await answer.read())

        return await asyncio.gather(*(one() for _ in range(requests)))


def _ask(url: str, body: bytes | None = None) -> Page:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        answer = urllib.request.urlopen(request, timeout=ANSWER_WAIT_MAX_S)
    except urllib.error.HTTPError as refusal:
        answer = refusal
    with answer:
        return Page(answer.status, ENDINGS.get(answer.headers.get_content_type(), "txt"), answer.read())


def _write(engine: str, name: str, page: Page) -> None:
    status = "" if page.status == 200 else f".{page.status}"
    path = FOLDER / engine / f"{name}{status}.{page.ending}"
    path.parent.mkdir(parents=True, exist_ok=True)
    body = NOISE.sub(b"", page.body)
    path.write_bytes(re.sub(re.escape(tempfile.gettempdir()).encode() + rb"/[^/\"]+", b"/models", body))


if __name__ == "__main__":
    main()
