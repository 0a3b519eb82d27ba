"""The fuzz targets stay in order: they hold for their seeds and for what a short, seeded mutation makes of them."""

from __future__ import annotations

import random

import pytest

from benchmarks.fuzz import targets
from benchmarks.fuzz.__main__ import NAMES
from benchmarks.fuzz.targets import TARGETS, Target
from gateway.sse import EventSplitter

MUTATIONS = 300


def mutated(target: Target, chance: random.Random) -> bytes:
    """A seed with a few bytes cut out, doubled, changed, or words of the target put in."""
    data = bytearray(chance.choice(target.seeds))
    for _ in range(chance.randint(1, 4)):
        at, to = sorted(chance.randrange(len(data) + 1) for _ in range(2))
        match chance.randrange(4):
            case 0:
                del data[at : min(to, at + 8)]
            case 1:
                data[at:at] = data[at:to]
            case 2:
                data[at : at + 1] = bytes([chance.randrange(256)])
            case _:
                data[at:at] = chance.choice(target.words)
    return bytes(data)


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_holds_for_its_seeds_and_around_them(name: str) -> None:
    """What the fuzzer would find in a moment is found here."""
    target, chance = TARGETS[name], random.Random(6)
    for seed in target.seeds:
        target.run(seed)
    for _ in range(MUTATIONS):
        target.run(mutated(target, chance))


def test_the_command_knows_all_targets() -> None:
    """It names them before it imports them, so that they can be instrumented."""
    assert tuple(TARGETS) == NAMES


def test_a_broken_promise_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A splitter that loses a byte at a seam."""

    class Careless(EventSplitter):
        def feed(self, data: bytes) -> bytes:
            return super().feed(data)[:-1]

    monkeypatch.setattr(targets, "EventSplitter", Careless)
    with pytest.raises(AssertionError):
        TARGETS["sse"].run(TARGETS["sse"].seeds[0])
