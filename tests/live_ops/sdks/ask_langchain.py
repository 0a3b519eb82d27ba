"""Asks for streams with LangChain; see `ask.run`."""

# mypy: ignore-errors

from collections.abc import Callable, Iterator

from ask import run
from langchain_openai import ChatOpenAI


def connect(url: str) -> Callable[[str], Iterator[str]]:
    """What gives the pieces of an answer."""
    model = ChatOpenAI(model="m", base_url=url, api_key="none", max_retries=0, max_tokens=9)
    return lambda prompt: (chunk.content for chunk in model.stream(prompt))


run(connect)
