"""Pricing as a worker has it: a copy of what the owner learned, and the news on which it goes on learning."""

from __future__ import annotations

from collections.abc import Callable

from estimator.demand import End, Shape
from gateway.domain import Usage
from gateway.gate import Place
from gateway.pricing import Answer, Pricing, Progress
from gateway.workers.messages import Follow, Learn, LearnCut, ToOwner, Unfollow


class RemotePricing(Pricing):
    """Prices by the copy, learns nothing itself.

    Args:
        send: to the owner.
    """

    def __init__(self, send: Callable[[ToOwner], None]) -> None:
        super().__init__(lambda *_: None)
        self._send = send
        self._ids: dict[Answer, int] = {}

    def follow(self, model: str, shape: Shape, progress: Progress, *, runs_to_max: bool) -> Answer:
        """A request is sent to an engine."""
        assert isinstance(progress, Place)
        answer = Answer(model, shape, runs_to_max=runs_to_max)
        self._ids[answer] = progress.id
        self._send(Follow(progress.id, model, shape, runs_to_max))
        return answer

    def unfollow(self, answer: Answer) -> None:
        """It is over."""
        self._send(Unfollow(self._ids.pop(answer)))

    def learn(self, answer: Answer, usage: Usage, end: End, *, events: int) -> None:
        """Its engine counted its tokens."""
        self._send(Learn(self._ids[answer], usage, end, events))

    def learn_cut(self, answer: Answer, output_tokens: int) -> None:
        """It was cut off."""
        self._send(LearnCut(self._ids[answer], output_tokens))
