"""Prompts counted here and by real vLLM: the same number for every kind of chat, whatever its template looks at."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass

import aiohttp
import msgspec
import pytest

from gateway.api.parse import parse_inference
from gateway.request import CHAT, COMPLETIONS
from gateway.tokens import TokenCounters, read_tokenizer
from tests.engines import tiny_model
from tests.engines.servers import MODEL_NAME, vllm_server

pytestmark = [pytest.mark.engines, pytest.mark.timeout(600)]

RICH_TEMPLATE = """
{{- bos_token }}
{%- if tools %}{{ tools | tojson }}{% endif %}
{%- for m in messages %}
    {{- '<|im_start|>' + m.role + (':' + m.name if m.name else '') + '\\n' }}
    {%- if m.content is string %}
        {{- m.content }}
    {%- else %}
        {%- for part in m.content %}{{ part.text }}{% endfor %}
    {%- endif %}
    {%- for call in m.tool_calls or [] %}{{ call.function.name }}{{ call.function.arguments | tojson }}{% endfor %}
    {{- m.tool_call_id }}{{ m.reasoning_content }}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant{{ '\\n<think>' if enable_thinking else '' }}
{% endif %}
"""
"""Goes through parts, tools, calls and switches: vLLM shows it all of them, and messages as lists of parts."""

USER = {"role": "user", "content": "how many tokens has the model made?"}
CALL = {"id": "call-1", "type": "function", "function": {"name": "look", "arguments": '{"at":"é","deep": [1, 2.50]}'}}
TOOL = {"type": "function", "function": {"parameters": {"type": "object", "properties": {"at": {}}}, "name": "look"}}
CHATS: dict[str, dict[str, object]] = {
    "one": {"messages": [USER]},
    "turns": {
        "messages": [{"role": "system", "content": "be it"}, USER, {"role": "assistant", "content": " 東京 🗼"}, USER]
    },
    "parts": {
        "messages": [
            {"role": "user", "name": "ann", "content": [{"type": "text", "text": t} for t in ("the", " of\n")]}
        ]
    },
    "tools": {
        "messages": [
            USER,
            {"role": "assistant", "content": None, "reasoning_content": "so", "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "call-1", "content": [{"type": "text", "text": t} for t in ("a", "b")]},
        ],
        "tools": [TOOL, {"type": "function", "function": {"name": "f", "description": "<d>", "strict": True}}],
        "tool_choice": "none",
    },
    "switches": {"messages": [USER], "chat_template_kwargs": {"enable_thinking": True}},
    "effort": {"messages": [USER], "reasoning_effort": "low"},
    "special": {"messages": [{"role": "user", "content": "<|im_end|>\n<|im_start|>user"}]},
    "not prompted": {"messages": [USER, {"role": "assistant", "content": "it is "}], "add_generation_prompt": False},
}
PROMPTS: dict[str, str | list[str]] = {"text": "the model of\t1,024 tokens", "two": ["the model", "of the"]}


class Usage(msgspec.Struct):
    prompt_tokens: int


class Answer(msgspec.Struct):
    usage: Usage


@dataclass(frozen=True, slots=True)
class Served:
    """A vLLM and what counts the prompts of its model."""

    url: str
    counters: TokenCounters

    async def both_counts(self, endpoint: str, fields: dict[str, object]) -> tuple[int | None, int]:
        """Counted here, and by the engine."""
        body = json.dumps({"model": MODEL_NAME, "max_tokens": 1, **fields}).encode()
        headers = {"content-type": "application/json"}
        async with (
            aiohttp.ClientSession() as http,
            http.post(f"{self.url}{endpoint}", data=body, headers=headers) as answer,
        ):
            page = await answer.read()
            assert answer.status == 200, page
        counted = await self.counters.count(parse_inference(endpoint, body))
        return counted, msgspec.json.decode(page, type=Answer).usage.prompt_tokens


@pytest.fixture(scope="module", params=["plain template", "rich template"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("vllm-tokens")
    model = tiny_model.write_huggingface(folder / "model")
    if request.param == "rich template":
        (model / "chat_template.jinja").write_text(RICH_TEMPLATE)
    counters = TokenCounters({MODEL_NAME: read_tokenizer(MODEL_NAME, model)})
    with vllm_server(model, folder / "log") as url:
        yield Served(url, counters)
    counters.close()


@pytest.mark.parametrize("chat", CHATS)
async def test_a_chat_is_counted_as_vllm_counts_it(served: Served, chat: str) -> None:
    counted, told = await asyncio.wait_for(served.both_counts(CHAT, CHATS[chat]), 60)
    assert counted == told


@pytest.mark.parametrize("prompt", PROMPTS)
async def test_a_completion_is_counted_as_vllm_counts_it(served: Served, prompt: str) -> None:
    counted, told = await asyncio.wait_for(served.both_counts(COMPLETIONS, {"prompt": PROMPTS[prompt]}), 60)
    assert counted == told
