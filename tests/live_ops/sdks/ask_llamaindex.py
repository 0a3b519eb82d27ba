"""Asks for streams with LlamaIndex; see `ask.run`."""

# mypy: ignore-errors

from collections.abc import Callable, Iterator

from ask import run
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike


def connect(url: str) -> Callable[[str], Iterator[str]]:
    """What gives the pieces of an answer."""
    model = OpenAILike(model="m", api_base=url, api_key="none", is_chat_model=True, max_retries=0, max_tokens=9)
    return lambda prompt: (part.delta or "" for part in model.stream_chat([ChatMessage(role="user", content=prompt)]))


run(connect)
