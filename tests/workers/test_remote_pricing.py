"""What a worker's requests teach, and the copy by which it prices the next ones."""

from __future__ import annotations

from estimator.demand import End, Shape
from gateway.domain import Usage
from gateway.learned_file import encoded, remembered, restore
from tests.shell import MODEL
from tests.workers.pair import Owner, Side

SHAPE = Shape(text_bytes=40)


async def test_what_is_learned_is_learned_at_the_owner() -> None:
    """It hears of each answer as it is sent, counted, and over; the worker itself keeps nothing of it."""
    owner = Owner()
    side = Side(owner)
    asked = side.ask(10)
    side.deliver()
    answer = side.pricing.follow(MODEL, SHAPE, side.places[asked.id], runs_to_max=False)
    side.deliver()
    assert len(owner.pricing._following) == 1
    side.leave(asked)
    side.pricing.learn(answer, Usage(30, 12), End.STOP, events=12)
    side.pricing.unfollow(answer)
    side.deliver()
    assert owner.pricing.snapshot()[0].learnt == 1
    assert (owner.pricing._following, side.pricing._ids, side.pricing._following) == ({}, {}, {})
    assert side.pricing.of(MODEL).demand.output_lengths.learnt == 0


async def test_an_answer_that_was_cut() -> None:
    """It is told how long it was at least."""
    owner = Owner()
    side = Side(owner)
    asked = side.ask(10)
    side.deliver()
    answer = side.pricing.follow(MODEL, SHAPE, side.places[asked.id], runs_to_max=False)
    side.pricing.learn_cut(answer, 9)
    side.pricing.unfollow(answer)
    side.leave(asked)
    side.deliver()
    assert owner.pricing._following == {}
    assert owner.pricing.of(MODEL).demand.output_lengths.counts().reached[0] > 0


async def test_a_worker_prices_by_what_the_owner_knows() -> None:
    """After the copy has come, both expect the same of a request, but for how it is rounded."""
    owner = Owner()
    side = Side(owner)
    for _ in range(50):
        answer = owner.pricing.follow(MODEL, SHAPE, _Silent(), runs_to_max=False)
        owner.pricing.learn(answer, Usage(90, 7), End.STOP, events=0)
    restore(encoded(remembered(owner.pricing)), side.pricing)
    ours, theirs = (
        pricing.demand(MODEL, SHAPE, context_tokens=8192, runs_to_max=False)
        for pricing in (owner.pricing, side.pricing)
    )
    assert abs(ours.prompt_tokens - theirs.prompt_tokens) <= 1
    for risk in (0.5, 0.1):
        assert abs(ours.output_bound(risk) - theirs.output_bound(risk)) <= 1
        assert theirs.output_bound(risk) < 20


class _Silent:
    output_tokens = 0
