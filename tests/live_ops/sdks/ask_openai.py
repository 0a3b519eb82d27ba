"""Asks for streams with openai-python; see `ask.run`."""

# mypy: ignore-errors

from collections.abc import Callable, Iterator

from ask import run
from openai import OpenAI


def connect(url: str) -> Callable[[str], Iterator[str]]:
    """What gives the pieces of an answer."""
    client = OpenAI(base_url=url, api_key="none", max_retries=0)

    def texts(prompt: str) -> Iterator[str]:
        messages = [{"role": "user", "content": prompt}]
        for chunk in client.chat.completions.create(model="m", messages=messages, max_tokens=9, stream=True):
            for choice in chunk.choices:
                yield choice.delta.content or ""

    return texts


run(connect)
