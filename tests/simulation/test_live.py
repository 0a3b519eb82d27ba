"""The engine in real time: growth, abortion, death."""

import asyncio

import pytest

from gateway.simulation.answers import Choice
from gateway.simulation.engine import Engine, EngineConfig, StepResult
from gateway.simulation.live import EngineDeadError, LiveEngine
from gateway.simulation.profiles import DEMO


def a_live_engine(engine: Engine | None = None) -> LiveEngine:
    """A thousand times faster than the demo profile."""
    return LiveEngine(engine or Engine(EngineConfig(DEMO, blocks=64, sequence_tokens_max=1024)), speed=1000.0)


def choices(*output_tokens: int) -> list[Choice]:
    """Answers of these lengths to prompts of ten tokens."""
    return [Choice(10, tokens, "length", voice=0) for tokens in output_tokens]


async def test_answers_grow_to_their_length_and_are_counted() -> None:
    """Each choice by itself; the totals are by reason and by size."""
    live = a_live_engine()
    async with live.running():
        with live.generation(choices(3, 7)) as generation:
            while not generation.is_done:
                await generation.progress()
    assert generation.generated == [3, 7]
    assert live.ended.by_reason == {"length": 2}
    assert live.ended.output_tokens.total == 10
    assert live.ended.prompt_tokens.total == 20


async def test_leaving_early_aborts_what_is_unfinished() -> None:
    """The memory is free when the block ends; aborted sequences count nowhere."""
    live = a_live_engine()
    async with live.running():
        with live.generation(choices(1, 500)) as generation:
            await generation.progress()
            assert live.engine.used_blocks > 0
        assert (live.engine.used_blocks, live.engine.has_work) == (0, False)
    assert live.ended.by_reason == {"length": 1}


async def test_with_aborts_ignored_a_zombie_runs_to_its_end() -> None:
    """It keeps its memory until then."""
    live = a_live_engine()
    live.ignores_aborts = True
    async with live.running():
        with live.generation(choices(50)) as generation:
            await generation.progress()
        assert live.engine.used_blocks > 0
        await live.idle()
    assert live.engine.generated_tokens == 50


async def test_who_waits_when_the_engine_dies_gets_an_error() -> None:
    """And so does whoever comes later."""
    live = a_live_engine()
    with live.generation(choices(5)) as generation:
        waiting = asyncio.gather(generation.progress(), return_exceptions=True)
        await asyncio.sleep(0)
        live.die()
        (outcome,) = await waiting
        assert isinstance(outcome, EngineDeadError)
    with pytest.raises(EngineDeadError), live.generation(choices(5)):
        pass


async def test_a_failing_engine_is_dead_and_its_error_comes_out() -> None:
    """A defect in the scheduler is not swallowed, and nobody waits for ever."""

    class Failing(Engine):
        def step(self) -> StepResult:
            raise ZeroDivisionError

    live = a_live_engine(Failing(EngineConfig(DEMO, blocks=64, sequence_tokens_max=100)))

    async def ask() -> None:
        async with live.running():
            with live.generation(choices(5)) as generation, pytest.raises(EngineDeadError):
                await generation.progress()

    with pytest.raises(ZeroDivisionError):
        await ask()
