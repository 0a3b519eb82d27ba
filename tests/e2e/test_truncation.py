"""Streams that die, with the client that users have: whatever becomes of the engine, it never takes a part for all."""

from __future__ import annotations

import pytest
from openai import APIError, AsyncOpenAI
from openai.types.chat import ChatCompletionChunk

from tests.e2e.dying import CLEAN_END, DEATHS, TEXT, WELL, DyingEngine, dying


async def text_of(client: AsyncOpenAI, way: str) -> str:
    """What a client gets of a stream that it takes to the end."""
    stream = await client.chat.completions.create(
        model="m", messages=[{"role": "user", "content": way}], max_tokens=9, stream=True
    )
    chunks: list[ChatCompletionChunk] = [chunk async for chunk in stream]
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


async def test_no_death_passes_for_an_end() -> None:
    """The client raises its own kind of error each time; an answer that is whole is one, before them and after."""
    async with dying() as (stand, _engine):
        client = stand.openai()
        assert await text_of(client, WELL) == TEXT
        for way in DEATHS:
            with pytest.raises(APIError):
                pytest.fail(f"{way}: {await text_of(client, way)}")
        assert await text_of(client, WELL) == TEXT


async def test_without_the_gateway_a_clean_end_passes_for_all() -> None:
    """What all this is for: asked directly, the client is content with two words of three."""
    async with DyingEngine() as engine, AsyncOpenAI(base_url=f"{engine.url}/v1", api_key="none") as client:
        assert await text_of(client, CLEAN_END) == TEXT.removesuffix("three")
