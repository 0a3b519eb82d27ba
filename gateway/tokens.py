"""Counts prompts exactly, for models whose tokenizer and chat template the operator has given.

A chat is turned into a prompt as vLLM 0.32 and transformers 5 do it: the same shape of messages and tools, the same
sandbox around the model's own template. What cannot be known to come out the same (media, fields that reach into the
prompt) is not counted at all, and neither is what fails: an estimate then takes the count's place, and the engine tells
the client what is wrong.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec
import structlog

from gateway.request import CHAT, COMPLETIONS, InferenceRequest

if TYPE_CHECKING:
    from jinja2 import Environment, Template
    from tokenizers import Tokenizer

INLINE_BYTES_MAX = 2_000
"""Texts up to here are counted on the event loop, in about a millisecond; longer ones in a thread."""
COUNTED_BYTES_MAX = 1 << 20
"""Longer texts are estimated: this many take half a second or more of a core."""
THREADS = 4
WAITING_MAX = 64
"""Requests that are counted in threads, or wait for one. Those beyond are estimated."""
_PROMPT = """
    add_special_tokens chat_template continue_final_message documents functions input_embeds input_ids media_io_kwargs
    mm_processor_kwargs prompt_embeds suffix truncate_prompt_tokens"""
PROMPT_FIELDS = frozenset(_PROMPT.split())
"""Fields that change the prompt in ways not restated here."""
SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
UNSET = (None, False)

log = structlog.get_logger()


class TokenizerError(ValueError):
    """A tokenizer cannot be used."""

    def __init__(self, model: str, message: str) -> None:
        super().__init__(f"tokenizers.{model}: {message}")
        self.path = f"tokenizers.{model}"
        """The key of the configuration."""
        self.message = message


class UncountableError(Exception):
    """A request whose prompt cannot be known here."""


class TokenCounters:
    """The tokenizers by public model name, and the threads that count. Close it."""

    def __init__(self, tokenizers: Mapping[str, ModelTokenizer]) -> None:
        self._tokenizers = tokenizers
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="tokens")
        self._waiting = 0
        self._told: set[str] = set()

    def counts(self, model: str) -> bool:
        """Whether prompts of this model are counted at all."""
        return model in self._tokenizers

    async def count(self, request: InferenceRequest) -> int | None:
        """Tokens of all prompts of a request together; None if they have to be estimated, or are known already."""
        tokenizer = self._tokenizers.get(request.model)
        shape = request.shape
        if tokenizer is None or shape.token_prompts or shape.images or shape.text_bytes > COUNTED_BYTES_MAX:
            return None
        try:
            if shape.text_bytes <= INLINE_BYTES_MAX:
                return tokenizer.count(request)
            return await self._count_in_thread(tokenizer, request)
        except UncountableError:
            return None
        except Exception as error:  # noqa: BLE001  # a template is code of others, and tokenizers raises nothing narrower
            self._tell(request.model, error)
            return None

    async def _count_in_thread(self, tokenizer: ModelTokenizer, request: InferenceRequest) -> int | None:
        if self._waiting >= WAITING_MAX:
            return None
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, tokenizer.count, request)
        finally:
            self._waiting -= 1

    def _tell(self, model: str, error: Exception) -> None:
        """Once per model, as many requests may fail alike; and never the error's text, which may quote the prompt."""
        if model not in self._told:
            self._told.add(model)
            log.warning("prompt_not_counted", model=model, error=type(error).__name__)

    def close(self) -> None:
        """Count nothing more. What is being counted ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True, slots=True)
class ModelTokenizer:
    """One model's tokenizer and chat templates. Its methods block, and any thread may call them."""

    tokenizer: Tokenizer
    templates: Mapping[str, Template]
    """By name: `default`, perhaps `tool_use`; empty for a model that does not chat."""
    special_tokens: Mapping[str, str]
    takes_parts: bool
    """The template goes through the parts of a message: vLLM then hands it parts only, and else texts only."""

    def count(self, request: InferenceRequest) -> int:
        """Tokens of all prompts of a request together.

        Raises:
            UncountableError: its prompt cannot be known here.
            Exception: whatever its template or its tokenizer raises.
        """
        fields = request.fields
        if any(_decode(fields[name]) not in UNSET for name in PROMPT_FIELDS & fields.keys()):
            raise UncountableError
        if request.endpoint == CHAT:
            return self._count_texts([self._chat(fields)], add_special_tokens=False)
        if request.endpoint == COMPLETIONS:
            prompt = _decode(fields["prompt"])
            return self._count_texts([prompt] if isinstance(prompt, str) else prompt, add_special_tokens=True)
        raise UncountableError

    def _count_texts(self, texts: list[str], *, add_special_tokens: bool) -> int:
        # `encode` keeps the GIL all the way; this one releases it, and keeps no offsets.
        return sum(map(len, self.tokenizer.encode_batch_fast(texts, add_special_tokens=add_special_tokens)))

    def _chat(self, fields: Mapping[str, msgspec.Raw]) -> str:
        """The prompt that a chat becomes."""
        tools = _decode(fields.get("tools"))
        template = self.templates.get("default" if tools is None else "tool_use") or self.templates.get("default")
        if template is None:
            raise UncountableError
        variables = {
            **self.special_tokens,
            **_variables(fields),
            "messages": [_turn(message, parts=self.takes_parts) for message in _decode(fields["messages"])],
            "tools": None if tools is None else [_tool(tool) for tool in tools],
            "documents": None,
            "add_generation_prompt": _decode(fields.get("add_generation_prompt")) is not False,
        }
        return template.render(variables)


def _decode(raw: msgspec.Raw | None) -> Any:
    return None if raw is None else msgspec.json.decode(raw)


def _variables(fields: Mapping[str, msgspec.Raw]) -> dict[str, Any]:
    """What else a client tells the template."""
    variables: dict[str, Any] = _decode(fields.get("chat_template_kwargs")) or {}
    effort = _decode(fields.get("reasoning_effort"))
    if effort not in (None, "auto"):
        variables = {"enable_thinking": effort != "none", **variables, "reasoning_effort": effort}
    return variables


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    """A tool with all its fields in vLLM's order: templates write it out as it is."""
    if tool.get("type", "function") != "function":
        raise UncountableError
    given = tool["function"]
    function = {name: given.get(name) for name in ("name", "description", "parameters")}
    if given.get("strict") is not None:
        function["strict"] = given["strict"]
    return {"type": "function", "function": function}


def _turn(message: dict[str, Any], *, parts: bool) -> dict[str, Any]:
    """A message as templates expect it."""
    role = message["role"]
    if role == "developer":
        raise UncountableError  # engines make of it what their version thinks best
    texts = _texts(message.get("content"))
    wrapped = parts and role != "tool"
    turn = {"role": role, "content": [{"type": "text", "text": t} for t in texts] if wrapped else "\n".join(texts)}
    if role == "assistant":
        calls = message.get("tool_calls")
        if calls:
            turn["tool_calls"] = [_call(call) for call in calls]
        reasoning = message.get("reasoning")
        if reasoning is None:
            reasoning = message.get("reasoning_content")
        if reasoning is not None:
            turn |= {"reasoning": reasoning, "reasoning_content": reasoning}
    if role == "tool" and "tool_call_id" in message:
        turn["tool_call_id"] = message["tool_call_id"]
    if message.get("name") is not None:
        turn["name"] = message["name"]
    return turn


def _texts(content: str | list[dict[str, str]] | None) -> list[str]:
    """The texts of a message. It has no other parts: requests with media never come here."""
    if isinstance(content, list):
        return [part[part["type"]] for part in content]
    return [] if content is None else [content]


def _call(call: dict[str, Any]) -> dict[str, Any]:
    """A tool call with its arguments as an object; engines put an empty one where they are none."""
    try:
        arguments = msgspec.json.decode(call["function"].get("arguments") or "{}")
    except msgspec.DecodeError:
        arguments = None
    return {**call, "function": {**call["function"], "arguments": arguments if isinstance(arguments, dict) else {}}}


def read_tokenizer(model: str, path: Path) -> ModelTokenizer:
    """Read a model's tokenizer.json, and its chat template from beside it. Blocks: up to a second or two.

    Args:
        model: its public name, to say which one is wrong.
        path: of the tokenizer.json, or of the folder that it is in.

    Raises:
        TokenizerError: it is missing or broken, or the libraries for it are not installed.
    """
    try:
        import jinja2  # noqa: PLC0415  # an extra
        from tokenizers import Tokenizer  # noqa: PLC0415  # the same
    except ImportError as error:
        hint = "pip install 'kvgate[tokenizer]'"
        raise TokenizerError(model, f"the library {error.name} is not installed: {hint}") from None
    file = path / "tokenizer.json" if path.is_dir() else path
    try:
        tokenizer = Tokenizer.from_buffer(file.read_bytes())
        # As engines do, which cut and pad nothing, whatever the file says.
        tokenizer.no_truncation()
        tokenizer.no_padding()
    except (OSError, ValueError) as error:
        raise TokenizerError(model, f"{file} cannot be used: {error}") from None
    folder = file.parent
    try:
        settings = _settings(folder)
        special_tokens = _special_tokens(settings)
        environment = _environment()
        templates = {name: environment.from_string(text) for name, text in _template_texts(folder, settings).items()}
    except (OSError, ValueError, TypeError, LookupError, AttributeError, jinja2.TemplateError) as error:
        raise TokenizerError(model, f"the chat template in {folder} cannot be used: {error!r}") from None
    return ModelTokenizer(tokenizer, templates, special_tokens, _takes_parts(templates.get("default"), special_tokens))


def _settings(folder: Path) -> dict[str, Any]:
    file = folder / "tokenizer_config.json"
    settings: dict[str, Any] = json.loads(file.read_bytes()) if file.exists() else {}
    return settings


def _special_tokens(settings: Mapping[str, Any]) -> dict[str, str]:
    """What templates know special tokens by; a token may be written with its flags."""
    given = {name: settings[name] for name in SPECIAL_TOKENS if settings.get(name)}
    return {name: token if isinstance(token, str) else token["content"] for name, token in given.items()}


def _template_texts(folder: Path, settings: Mapping[str, Any]) -> dict[str, str]:
    """Templates by name. A file of its own goes before those among the settings."""
    file = folder / "chat_template.jinja"
    if file.exists():
        more = sorted((folder / "additional_chat_templates").glob("*.jinja"))
        return {"default": file.read_text("utf-8"), **{other.stem: other.read_text("utf-8") for other in more}}
    given = settings.get("chat_template")
    if isinstance(given, list):
        return {item["name"]: item["template"] for item in given}
    return {} if given is None else {"default": given}


def _environment() -> Environment:
    """The sandbox that transformers renders chat templates in."""
    from jinja2 import ext, nodes, parser, sandbox  # noqa: PLC0415  # an extra

    class Generation(ext.Extension):
        """`{% generation %}` marks what a model is trained on. Here it is only a block."""

        tags = {"generation"}  # noqa: RUF012  # as the library has it

        def parse(self, parser: parser.Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)

    def raise_exception(message: str) -> NoReturn:
        raise UncountableError(message)

    environment = sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = time.strftime
    return environment


def _to_json(
    value: object,
    ensure_ascii: bool = False,  # noqa: FBT001, FBT002  # templates pass it by its place or its name
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,  # noqa: FBT001, FBT002
) -> str:
    """jinja's own filter escapes what HTML must not hold."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _takes_parts(template: Template | None, special_tokens: Mapping[str, str]) -> bool:
    """Whether a template goes through the parts of a message, found out by trying.

    vLLM looks for such a loop in the template's syntax tree. A template that has one writes a part's text bare; one
    that has none writes nothing, fails, or writes the list itself.
    """
    if template is None:
        return False
    mark = "kvgate-probe"
    parts = [{"type": "text", "text": mark}]
    try:
        prompt = template.render(**special_tokens, messages=[{"role": "user", "content": parts}])
    except Exception:  # noqa: BLE001  # a template is code of others
        return False
    return mark in prompt and "'text'" not in prompt and '"text"' not in prompt
