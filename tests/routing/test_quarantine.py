"""Requests that engines die of."""

import pytest

from gateway.routing import quarantine
from gateway.routing.quarantine import HELD_S, KNOWN_MAX, SUSPECT_S, Quarantine, fingerprint

CHAT = "/v1/chat/completions"
POISON = b'{"model":"m","prompt":"poison"}'


def died(held: Quarantine, now: float, body: bytes = POISON) -> bool:
    """An engine dies with it."""
    return held.died(fingerprint(CHAT, body), body, now)


def test_after_two_deaths_it_is_held_for_a_minute() -> None:
    """That very request: not another one of the same length, nor the same text asked elsewhere."""
    held = Quarantine()
    assert not died(held, 0.0)
    assert not held.held_s(CHAT, POISON, 1.0)
    assert died(held, 10.0)
    assert held.held_s(CHAT, POISON, 10.0) == HELD_S
    assert held.held_s(CHAT, POISON, 9.0 + HELD_S) == 1.0
    assert not held.held_s(CHAT, POISON[::-1], 10.0)
    assert not held.held_s("/v1/completions", POISON, 10.0)
    assert not held.held_s(CHAT, POISON, 10.0 + HELD_S)


def test_known_poison_needs_one_more_death_only() -> None:
    """An engine a minute, not two."""
    held = Quarantine()
    died(held, 0.0)
    died(held, 0.0)
    assert died(held, HELD_S + 1)
    assert held.held_s(CHAT, POISON, HELD_S + 2) == HELD_S - 1


def test_deaths_that_lie_far_apart_are_no_pattern() -> None:
    held = Quarantine()
    died(held, 0.0)
    assert not died(held, SUSPECT_S + 1)
    assert died(held, SUSPECT_S + 2)


def test_an_answer_clears_a_suspect() -> None:
    """It was there when an engine died, and not why."""
    held = Quarantine()
    died(held, 0.0)
    held.answered(CHAT, POISON)
    assert not len(held)
    assert not died(held, 1.0)
    held.answered(CHAT, b"of another length")
    assert len(held) == 1


def test_what_is_remembered_is_bounded() -> None:
    """Whose last death is longest ago is forgotten first."""
    held = Quarantine()
    died(held, 0.0, b"first")
    for k in range(KNOWN_MAX):
        died(held, 1.0, b"%d" % k)
    assert len(held) == KNOWN_MAX
    assert not died(held, 2.0, b"first")
    assert died(held, 2.0, b"%d" % (KNOWN_MAX - 1))
    assert sum(held._sizes.values()) == KNOWN_MAX


def test_nothing_is_hashed_while_nobody_is_suspected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor for a body of another length: ordinary requests pay for a look into a dictionary."""
    held = Quarantine()
    died(held, 0.0)
    monkeypatch.setattr(quarantine, "fingerprint", None)
    assert not held.held_s(CHAT, b"x" * 1000, 1.0)
    held.answered(CHAT, b"x" * 1000)
    assert not Quarantine().held_s(CHAT, POISON, 1.0)


def test_what_is_cleared_is_told_apart() -> None:
    """So that others are told only of what they may know."""
    held = Quarantine()
    died(held, 0.0)
    name = fingerprint(CHAT, POISON)
    assert (held.clear(name), held.clear(name), len(held)) == (True, False, 0)
