"""Counts against what vLLM has counted and against prompts written out by hand; what cannot be counted; limits."""

from __future__ import annotations

import asyncio
import io
import json
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from structlog.testing import capture_logs

from gateway import tokens
from gateway.api.parse import ParsePolicy, parse_inference
from gateway.app import Running, run
from gateway.config import load_config
from gateway.request import CHAT, COMPLETIONS, EMBEDDINGS, InferenceRequest
from gateway.simulation.server import start_engine
from gateway.tokens import ModelTokenizer, TokenCounters, TokenizerError, read_tokenizer
from tests.e2e.stand import SMALL, logs_into
from tests.engines import tiny_model
from tests.engines.record import CHAT as RECORDED_CHAT, FOLDER

USER = {"role": "user", "content": "the model"}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": "é"}'}}
TOOL = {"type": "function", "function": {"parameters": {"b": 1, "a": "<é>"}, "name": "f", "strict": None}}
LONG = "x" * (tokens.INLINE_BYTES_MAX + 1)
WITH_BEGIN = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": tiny_model.BEGIN, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {tiny_model.BEGIN: {"id": tiny_model.BEGIN, "ids": [0], "tokens": [tiny_model.BEGIN]}},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_model.write_huggingface(tmp_path / "model")


@pytest.fixture
def plain(folder: Path) -> ModelTokenizer:
    return read_tokenizer("m", folder)


def change(file: Path, **values: object) -> None:
    """Set keys of a JSON file; None takes one away."""
    page = json.loads(file.read_text()) | values
    file.write_text(json.dumps({key: value for key, value in page.items() if value is not None}))


def with_template(folder: Path, template: str) -> ModelTokenizer:
    (folder / "chat_template.jinja").write_text(template)
    return read_tokenizer("m", folder)


def ask(endpoint: str = CHAT, /, **fields: object) -> InferenceRequest:
    policy = ParsePolicy(unknown_fields="pass", extra_fields=frozenset(("chat_template",)))
    return parse_inference(endpoint, json.dumps({"model": "m", **fields}).encode(), policy)


def count(tokenizer: ModelTokenizer, request: InferenceRequest) -> int | None:
    counters = TokenCounters({"m": tokenizer})
    try:
        return asyncio.run(counters.count(request))
    finally:
        counters.close()


def test_models_without_a_tokenizer_are_not_counted(plain: ModelTokenizer) -> None:
    """That is known before a request is looked at."""
    counters = TokenCounters({"m": plain})
    assert (counters.counts("m"), counters.counts("other")) == (True, False)
    counters.close()


def length(tokenizer: ModelTokenizer, prompt: str) -> int:
    """Tokens of a prompt written out by hand."""
    return len(tokenizer.tokenizer.encode(prompt, add_special_tokens=False).ids)


def test_a_chat_is_what_vllm_counted(plain: ModelTokenizer) -> None:
    """The chat and the model of the recording give the recorded count."""
    recorded = json.loads((FOLDER / "vllm" / "chat.json").read_text())["usage"]["prompt_tokens"]
    assert count(plain, ask(**{**RECORDED_CHAT, "model": "m"})) == recorded == 23


def test_a_chat_is_its_rendered_template(plain: ModelTokenizer) -> None:
    """Special tokens of the template are one token each, and parts are lines."""
    parts = [{"type": "text", "text": "how many"}, {"type": "refusal", "refusal": "are there"}]
    messages = [{"role": "system", "content": "be it"}, {"role": "user", "content": parts}]
    prompt = "<|im_start|>system\nbe it<|im_end|>\n<|im_start|>user\nhow many\nare there<|im_end|>\n"
    assert count(plain, ask(messages=messages)) == length(plain, prompt + "<|im_start|>assistant\n")
    assert count(plain, ask(messages=messages, add_generation_prompt=False)) == length(plain, prompt)
    assert length(plain, "<|im_start|>") == 1


@pytest.mark.parametrize(("post_processor", "more"), [(None, 0), (WITH_BEGIN, 1)])
def test_a_completion_gets_the_special_tokens_of_the_file(
    folder: Path, post_processor: dict[str, object] | None, more: int
) -> None:
    """The post-processor adds them to each prompt of a completion, and never to a chat, whose template writes them."""
    change(folder / "tokenizer.json", post_processor=post_processor)
    tokenizer = read_tokenizer("m", folder)
    text, other = length(tokenizer, "the model"), length(tokenizer, "of time")
    assert count(tokenizer, ask(COMPLETIONS, prompt="the model")) == text + more
    assert count(tokenizer, ask(COMPLETIONS, prompt=["the model", "of time"])) == text + other + 2 * more
    assert count(tokenizer, ask(messages=[USER])) == 23


@pytest.mark.parametrize(
    ("template", "fields", "prompt"),
    [
        ("{{ bos_token }}{{ eos_token }}{{ unk_token }}", {}, "<|bos|><|im_end|>"),
        ("{{ tools | tojson }}", {"tools": [TOOL]},
         '[{"type": "function", "function": {"name": "f", "description": null, "parameters": {"b": 1, "a": "<é>"}}}]'),
        ("{{ tools | tojson }}", {}, "null"),
        ("{{ tools is none }}", {"tools": []}, "False"),
        ("{{ messages | tojson(indent=1) }}", {}, '[\n {\n  "role": "user",\n  "content": "the model"\n }\n]'),
        ("{% for m in messages %}{% for c in m.tool_calls %}{{ c.function.arguments.at }}{% endfor %}{% endfor %}",
         {"messages": [{"role": "assistant", "content": None, "tool_calls": [CALL]}]}, "é"),
        ("{{ messages[0].tool_calls[0].function.arguments }}", {"messages": [
            {"role": "assistant", "tool_calls": [CALL | {"function": {"name": "f", "arguments": "no JSON"}}]}]}, "{}"),
        ("{{ messages[0] | tojson }}", {"messages": [{"role": "tool", "content": "a", "tool_call_id": "c"}]},
         '{"role": "tool", "content": "a", "tool_call_id": "c"}'),
        ("{{ messages[0] | tojson }}", {"messages": [
            {"role": "assistant", "content": "a", "name": "n", "reasoning_content": "r", "tool_calls": []}]},
         '{"role": "assistant", "content": "a", "reasoning": "r", "reasoning_content": "r", "name": "n"}'),
        ("{{ enable_thinking }}", {"chat_template_kwargs": {"enable_thinking": False}}, "False"),
        ("{{ enable_thinking }}{{ reasoning_effort }}", {"reasoning_effort": "none"}, "Falsenone"),
        ("{{ enable_thinking }}{{ reasoning_effort }}", {"reasoning_effort": "low"}, "Truelow"),
        ("{% for i in [1, 2, 3] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", {}, "1"),
        ("a{% generation %}b{% set c = 1 %}{% endgeneration %}{{ c }}", {}, "ab"),
        ("{% if true %}\n  {% set a = 1 %}\nb\n{% endif %}", {}, "b\n"),
        ("{{ strftime_now('%%') }}", {}, "%"),
        ("{{ messages[0]['content'] | length }}", {}, "9"),
        ("{% for p in messages[0]['content'] %}{{ p.text }}{% endfor %}",
         {"messages": [{"role": "user", "content": [{"type": "text", "text": t} for t in ("a", "b")]}]}, "ab"),
        ("{% for p in messages[0]['content'] %}{{ p.text }}{% endfor %}", {}, "the model"),
    ],
)  # fmt: skip
def test_templates_see_what_engines_show_them(
    folder: Path, template: str, fields: dict[str, object], prompt: str
) -> None:
    """The prompt written out by hand is what the template makes, whatever it uses."""
    tokenizer = with_template(folder, template)
    assert count(tokenizer, ask(**{"messages": [USER], **fields})) == length(tokenizer, prompt)


@pytest.mark.parametrize(
    "request_",
    [
        ask(messages=[{"role": "user", "content": [IMAGE]}]),
        ask(messages=[{"role": "developer", "content": "a"}]),
        ask(messages=[USER], continue_final_message=True),
        ask(messages=[USER], chat_template="{{ messages }}"),
        ask(messages=[USER], documents=[{"text": "a"}]),
        ask(messages=[USER], functions=[{"name": "f"}]),
        ask(messages=[USER], tools=[{"type": "custom", "custom": {"name": "f"}}]),
        ask(COMPLETIONS, prompt="a", suffix="b"),
        ask(COMPLETIONS, prompt=[1, 2, 3]),
        ask(COMPLETIONS, prompt="x" * tokens.COUNTED_BYTES_MAX),
        ask(EMBEDDINGS, input="a"),
        parse_inference(COMPLETIONS, b'{"model":"another","prompt":"a"}'),
    ],
)
def test_what_cannot_be_known_is_not_counted(plain: ModelTokenizer, request_: InferenceRequest) -> None:
    """Nothing is guessed, and nothing is logged: such requests are right."""
    with capture_logs() as lines:
        assert count(plain, request_) is None
    assert lines == []


def test_a_model_without_template_counts_completions_only(folder: Path) -> None:
    (folder / "tokenizer_config.json").unlink()
    tokenizer = read_tokenizer("m", folder)
    assert count(tokenizer, ask(messages=[USER])) is None
    assert count(tokenizer, ask(COMPLETIONS, prompt="a")) == 1


@pytest.mark.parametrize(
    ("template", "error"),
    [
        ("{{ raise_exception('roles must alternate') }}", None),
        ("{{ 1 // 0 }}", "ZeroDivisionError"),
        ("{{ messages.clear() }}", "SecurityError"),
        ("{{ messages[0].content.nothing.more }}", "UndefinedError"),
    ],
)
def test_a_failing_template_is_an_uncounted_prompt(folder: Path, template: str, error: str | None) -> None:
    """It is told once, without a word of the prompt; a template that refuses a chat has not failed."""
    counters = TokenCounters({"m": with_template(folder, template)})
    with capture_logs() as lines:
        assert [asyncio.run(counters.count(ask(messages=[USER]))) for _ in range(3)] == [None] * 3
    counters.close()
    told = {"event": "prompt_not_counted", "model": "m", "error": error, "log_level": "warning"}
    assert lines == ([told] if error else [])


def test_nothing_is_cut_or_padded(folder: Path) -> None:
    """Settings of the file that an engine does not follow are not followed here."""
    cut = {"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    padding = {"strategy": {"Fixed": 64}, "direction": "Right", "pad_id": 2, "pad_type_id": 0, "pad_token": "<|pad|>"}
    change(folder / "tokenizer.json", truncation=cut, padding=padding)
    assert count(read_tokenizer("m", folder), ask(messages=[USER])) == 23


def test_a_template_of_its_own_file_goes_first(folder: Path) -> None:
    tokenizer = with_template(folder, "a")
    assert count(tokenizer, ask(messages=[USER])) == 1
    more = folder / "additional_chat_templates"
    more.mkdir()
    (more / "tool_use.jinja").write_text("abc")
    tokenizer = read_tokenizer("m", folder / "tokenizer.json")
    assert count(tokenizer, ask(messages=[USER])) == 1
    assert count(tokenizer, ask(messages=[USER], tools=[TOOL])) == 3


def test_templates_may_be_a_list_and_tokens_may_have_flags(folder: Path) -> None:
    templates = [{"name": "default", "template": "{{ bos_token }}"}, {"name": "tool_use", "template": "abc"}]
    change(folder / "tokenizer_config.json", chat_template=templates, bos_token={"content": "ab", "special": True})
    tokenizer = read_tokenizer("m", folder)
    assert count(tokenizer, ask(messages=[USER])) == 2
    assert count(tokenizer, ask(messages=[USER], tools=[TOOL])) == 3


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("tokenizer.json", None, "No such file"),
        ("tokenizer.json", "{}", "Model missing"),
        ("tokenizer_config.json", "{", "JSONDecodeError"),
        ("tokenizer_config.json", "[]", "AttributeError"),
        ("tokenizer_config.json", '{"chat_template": [{"name": "default"}]}', "KeyError"),
        ("chat_template.jinja", "{% for %}", "TemplateSyntaxError"),
    ],
)
def test_what_is_wrong_with_a_tokenizer_is_told_at_start(
    folder: Path, file: str, content: str | None, message: str
) -> None:
    """With the key of the configuration and the path of the file."""
    (folder / file).unlink(missing_ok=True)
    if content is not None:
        (folder / file).write_text(content)
    with pytest.raises(TokenizerError) as caught:
        read_tokenizer("m", folder)
    assert caught.value.path == "tokenizers.m"
    assert message in caught.value.message
    assert str(folder) in caught.value.message
    assert str(caught.value) == f"{caught.value.path}: {caught.value.message}"


@pytest.mark.parametrize("library", ["jinja2", "tokenizers"])
def test_a_missing_extra_is_told_at_start(folder: Path, monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(TokenizerError, match=rf"{library} is not installed: pip install 'kvgate\[tokenizer\]'"):
        read_tokenizer("m", folder)


class SlowTokenizer:
    """Counts letters, in threads not before it may, and notes where it does so."""

    def __init__(self) -> None:
        self.may = threading.Event()
        self.started = threading.Semaphore(0)
        self.threads: list[str] = []

    def encode_batch_fast(self, texts: list[str], *, add_special_tokens: bool) -> list[str]:
        thread = threading.current_thread()
        self.threads.append(thread.name)
        self.started.release()
        if thread is not threading.main_thread():
            assert self.may.wait(10)
        return texts


@pytest.fixture
def slow() -> Iterator[SlowTokenizer]:
    tokenizer = SlowTokenizer()
    yield tokenizer
    tokenizer.may.set()


async def test_long_texts_are_counted_in_few_threads_and_those_beyond_are_not(slow: SlowTokenizer) -> None:
    """Short texts never wait for long ones, and a client that leaves gives its place back."""
    counters = TokenCounters({"m": ModelTokenizer(slow, {}, {}, takes_parts=False)})  # type: ignore[arg-type]  # has what is used
    short, long = ask(COMPLETIONS, prompt="abc"), ask(COMPLETIONS, prompt=LONG)
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(counters.count(long)) for _ in range(tokens.WAITING_MAX)]
        for _ in range(tokens.THREADS):
            await asyncio.to_thread(slow.started.acquire)
        assert await counters.count(short) == 3
        assert await counters.count(long) is None
        waiting[-1].cancel()
        await asyncio.wait(waiting[-1:])
        waiting[-1] = group.create_task(counters.count(long))
        await asyncio.sleep(0)
        assert len(slow.threads) == tokens.THREADS + 1
        slow.may.set()
    assert {task.result() for task in waiting} == {len(LONG)}
    names = set(slow.threads) - {threading.main_thread().name}
    assert len(names) == tokens.THREADS
    assert all(name.startswith("tokens") for name in names)
    counters.close()


@asynccontextmanager
async def gateway(**settings: object) -> AsyncIterator[Running]:
    tree = {"listen": {"port": 0, "admin_port": 0}, **settings}
    config = await asyncio.to_thread(load_config, overrides=tree, environ={})
    async with run(config, logs_into(io.StringIO())) as running:
        for looked in running.first_looks.values():
            await looked.wait()
        yield running


@pytest.mark.parametrize("is_counted", [True, False])
async def test_the_gateway_reserves_what_was_counted(folder: Path, is_counted: bool) -> None:
    """159 words are 159 tokens: with one of output ten blocks of 16, where an estimate by bytes reserves more."""
    tokenizers = {"m": str(folder / "tokenizer.json")} if is_counted else {}
    body = {"model": "m", "prompt": " model" * 159, "max_tokens": 1}
    async with (
        start_engine(SMALL) as engine,
        gateway(backends=[{"url": engine.url}], tokenizers=tokenizers) as running,
        aiohttp.ClientSession() as http,
        http.post(f"{running.api_url}/v1/completions", json=body) as answer,
    ):
        assert answer.status == 200
        assert (answer.headers["x-kvgate-kv-tokens"] == "160") is is_counted


async def test_a_gateway_does_not_start_with_a_broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(TokenizerError, match=r"^tokenizers\.m: "):
        async with gateway(tokenizers={"m": str(folder / "tokenizer.json")}):
            pass
