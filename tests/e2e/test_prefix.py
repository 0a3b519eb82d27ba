"""Conversations before two engines: each goes on where it began."""

from __future__ import annotations

from dataclasses import replace

from gateway.simulation.server import start_engine
from tests.e2e.stand import SLOW, SMALL, Stand, gateway

HALF, WHOLE = replace(SMALL, kv_tokens=65_536), replace(SLOW, kv_tokens=131_072)
"""Pools in which a conversation is nothing: it takes less of the larger one, but only just."""


def turn(name: str, turns: int) -> str:
    """A conversation up to there; each turn is 1 KiB."""
    return "".join(f"{name}{number}".ljust(1024, ".") for number in range(turns))


async def ask(stand: Stand, prompt: str) -> str:
    """A short answer; returns who gave it."""
    answer = await stand.complete(prompt=prompt, max_tokens=4)
    assert answer.status == 200, answer.body
    return answer.headers["x-kvgate-backend"]


async def test_conversations_go_on_where_they_began() -> None:
    """Bob began on one engine while the other had less room; when both are idle he comes back all the same."""
    async with (
        start_engine(HALF) as half,
        start_engine(WHOLE) as whole,
        gateway({"name": "half", "url": half.url}, {"name": "whole", "url": whole.url}) as stand,
    ):
        assert await ask(stand, turn("ann", 3)) == "whole"
        crowd = await stand.openai().completions.create(
            model="m", prompt="hello", max_tokens=7000, stream=True, extra_body={"ignore_eos": True}
        )
        assert (await stand.state()).backend("whole").requests == 1
        assert await ask(stand, turn("bob", 3)) == "half"
        await crowd.close()
        await stand.ledger_is_zero()
        for turns in (4, 5):
            assert await ask(stand, turn("bob", turns)) == "half"
            assert await ask(stand, turn("ann", turns)) == "whole"
