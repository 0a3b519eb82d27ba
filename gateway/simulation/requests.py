"""What a client asks of the simulated engine: OpenAI request bodies as vLLM reads them, down to token counts."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import Annotated, TypeVar

import msgspec

CHOICES_MAX = 128
"""Largest `n`, and the most prompts in one completions request."""
COMPLETION_TOKENS_DEFAULT = 16
"""The `max_tokens` of /v1/completions where the client gives none. Chat has none: it runs to the end of the context."""
BYTES_PER_TOKEN = 4
IMAGE_TOKENS = 256
MESSAGE_TOKENS = 4
"""What a chat template adds around each message."""


class VllmError(Exception):
    """An answer other than success, in vLLM's words."""

    def __init__(self, status: int, type_: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.type = type_
        self.message = message
        self.param = param


class Endpoint(enum.Enum):
    """The two ways to ask for text. The value starts every response id."""

    CHAT = "chatcmpl"
    COMPLETIONS = "cmpl"


@dataclass(frozen=True, slots=True)
class Job:
    """A request that the engine will take, with defaults filled in and prompts counted."""

    endpoint: Endpoint
    prompt_tokens: tuple[int, ...]
    """One per prompt; chat has one."""
    output_tokens_max: tuple[int, ...]
    """One per prompt: `max_tokens`, cut to what the context leaves."""
    output_tokens_min: int
    n: int
    ignore_eos: bool
    stream: bool
    include_usage: bool
    continuous_usage: bool
    tool: str | None
    """Name of a tool that the client insists on being called."""


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = False
    continuous_usage_stats: bool | None = False


class _Named(msgspec.Struct):
    name: str


class _Tool(msgspec.Struct):
    function: _Named


class _Part(msgspec.Struct):
    type: str
    text: str = ""


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None
    tool_calls: msgspec.Raw = msgspec.Raw()


class _Fields(msgspec.Struct):
    model: str | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=CHOICES_MAX)] | None = 1
    max_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    min_tokens: Annotated[int, msgspec.Meta(ge=0)] | None = 0
    ignore_eos: bool = False
    stream: bool | None = False
    stream_options: _StreamOptions | None = None


class _Chat(_Fields, kw_only=True):
    messages: Annotated[list[_Message], msgspec.Meta(min_length=1)]
    max_completion_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    tools: list[msgspec.Raw] | None = None
    tool_choice: str | _Tool | None = None


_Prompts = str | list[int | str | list[int]]


class _Completion(_Fields, kw_only=True):
    prompt: _Prompts


class _Tokenize(msgspec.Struct):
    model: str | None = None
    prompt: str | None = None
    messages: list[_Message] | None = None


_T = TypeVar("_T", bound=msgspec.Struct)


def parse(endpoint: Endpoint, body: bytes, *, model: str, sequence_tokens_max: int) -> Job:
    """Read a request body.

    Raises:
        VllmError: for what vLLM refuses. Unknown fields and a missing model are fine there.
    """
    fields: _Chat | _Completion
    prompts: tuple[int, ...]
    if endpoint is Endpoint.CHAT:
        fields = _decode(body, _Chat)
        prompts = (_chat_tokens(fields),)
        asked = fields.max_completion_tokens or fields.max_tokens
    else:
        fields = _decode(body, _Completion)
        prompts = _completion_tokens(fields.prompt)
        asked = fields.max_tokens or COMPLETION_TOKENS_DEFAULT
    _require_model(fields.model, model)
    options = fields.stream_options or _StreamOptions()
    return Job(
        endpoint=endpoint,
        prompt_tokens=prompts,
        output_tokens_max=tuple(_output_tokens_max(tokens, asked, sequence_tokens_max) for tokens in prompts),
        output_tokens_min=fields.min_tokens or 0,
        n=fields.n or 1,
        ignore_eos=fields.ignore_eos,
        stream=bool(fields.stream),
        include_usage=bool(options.include_usage),
        continuous_usage=bool(options.include_usage and options.continuous_usage_stats),
        tool=_forced_tool(fields) if isinstance(fields, _Chat) else None,
    )


def tokenize(body: bytes, *, model: str) -> list[int]:
    """Token ids of a /tokenize request, as many as the same text would count in a prompt.

    Raises:
        VllmError: for a body that is not such a request.
    """
    fields = _decode(body, _Tokenize)
    _require_model(fields.model, model)
    if fields.messages is not None:
        return list(range(_chat_tokens(_Chat(messages=fields.messages))))
    if fields.prompt is None:
        raise VllmError(400, "Bad Request", "Field required: prompt or messages", "prompt")
    text = fields.prompt.encode()
    return [
        int.from_bytes(text[at : at + BYTES_PER_TOKEN]) % 32_000 for at in range(0, max(1, len(text)), BYTES_PER_TOKEN)
    ]


def text_tokens(text: str) -> int:
    """Tokens of a text by the engine's imaginary tokenizer; never 0."""
    return max(1, _quarter(len(text.encode())))


def _quarter(size_bytes: int) -> int:
    return -(-size_bytes // BYTES_PER_TOKEN)


def _decode(body: bytes, type_: type[_T]) -> _T:
    try:
        return msgspec.json.decode(body, type=type_)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        field = re.search(r"at `\$\.(\w+)", str(error))
        raise VllmError(400, "Bad Request", str(error), field and field[1]) from error


def _require_model(asked: str | None, served: str) -> None:
    if asked is not None and asked != served:
        raise VllmError(404, "NotFoundError", f"The model `{asked}` does not exist.", "model")


def _output_tokens_max(prompt_tokens: int, asked: int | None, sequence_tokens_max: int) -> int:
    if asked is not None and asked > sequence_tokens_max:
        raise VllmError(
            400,
            "BadRequestError",
            f"max_tokens={asked} exceeds this model's maximum context length of {sequence_tokens_max} tokens.",
            "max_tokens",
        )
    if prompt_tokens >= sequence_tokens_max:
        raise VllmError(
            400,
            "BadRequestError",
            f"The prompt has {prompt_tokens} tokens; this model's maximum context length is {sequence_tokens_max} "
            "tokens, of which at least one is for the answer.",
            "input_tokens",
        )
    left = sequence_tokens_max - prompt_tokens
    return left if asked is None else min(asked, left)


def _chat_tokens(chat: _Chat) -> int:
    tools = sum(_quarter(len(bytes(tool))) for tool in chat.tools or ())
    return tools + sum(_message_tokens(message) for message in chat.messages)


def _message_tokens(message: _Message) -> int:
    calls = _quarter(len(bytes(message.tool_calls)))
    match message.content:
        case None:
            content = 0
        case str(text):
            content = _quarter(len(text.encode()))
        case parts:
            content = sum(_quarter(len(p.text.encode())) if p.type == "text" else IMAGE_TOKENS for p in parts)
    return MESSAGE_TOKENS + content + calls


def _completion_tokens(prompt: _Prompts) -> tuple[int, ...]:
    """A text, a list of texts, a list of token ids, or a list of such lists."""
    if isinstance(prompt, str):
        return (text_tokens(prompt),)
    if prompt and all(isinstance(item, int) for item in prompt):
        return (len(prompt),)
    counts = tuple(
        text_tokens(item) if isinstance(item, str) else len(item) for item in prompt if not isinstance(item, int)
    )
    if len(counts) != len(prompt) or not 1 <= len(counts) <= CHOICES_MAX or 0 in counts:
        raise VllmError(400, "BadRequestError", "prompt must be a text, token ids, or a list of either", "prompt")
    return counts


def _forced_tool(chat: _Chat) -> str | None:
    if isinstance(chat.tool_choice, _Tool):
        return chat.tool_choice.function.name
    if chat.tool_choice == "required" and chat.tools:
        return _decode(bytes(chat.tools[0]), _Tool).function.name
    return None
