"""Beginnings of prompts: their names, who was sent them, and how far a cache is believed to keep them."""

from __future__ import annotations

from itertools import takewhile

import pytest
from hypothesis import given, strategies as st

from gateway.admission.rehearsal import rehearsal
from gateway.routing.prefix import (
    CHUNK_BYTES,
    CHUNKS_MAX,
    EVIDENCE_TOKENS,
    PRIOR_SHARE,
    PRIOR_TOKENS,
    REMEMBERED_MAX,
    CacheTrust,
    PrefixMap,
    chain,
)

ROOM = 10**9


def text(*chunks: int, tail: bytes = b"") -> bytes:
    """A prompt made of whole chunks, each named by a number."""
    return b"".join(bytes([number]) * CHUNK_BYTES for number in chunks) + tail


# Names


def test_prompts_share_names_as_far_as_they_are_the_same() -> None:
    """Whole chunks only; after a difference nothing is the same again, though the text is."""
    one, two = chain("m", text(1, 2, 3, 4)), chain("m", text(1, 2, 9, 4))
    assert one[:2] == two[:2]
    assert not set(one[2:]) & set(two[2:])
    assert chain("m", text(1, 2, tail=b"more")) == one[:2] == chain("m", memoryview(text(1, 2, 3))[: 2 * CHUNK_BYTES])
    assert chain("m", b"x" * (CHUNK_BYTES - 1)) == ()


def test_a_conversation_begins_as_it_did_a_turn_before() -> None:
    """The closing bracket of the messages lies in the part that is not looked at."""
    before = b'[{"role":"user","content":"%s"}]' % text(*range(97, 100))
    after = before[:-1] + b',{"role":"assistant","content":"%s"}]' % text(100)
    assert chain("m", after)[: len(chain("m", before))] == chain("m", before) != ()


def test_other_starts_have_other_names() -> None:
    """Models and tenants do not meet."""
    names = [chain(start, text(1, 2)) for start in (("t", "m"), ("u", "m"), ("t", "n"))]
    assert len({name for each in names for name in each}) == 6


def test_long_prompts_are_looked_at_in_part() -> None:
    """What comes later changes nothing and costs nothing."""
    long = text(*[7] * (CHUNKS_MAX + 5))
    assert len(chain("m", long)) == CHUNKS_MAX
    assert len(set(chain("m", long))) == CHUNKS_MAX
    assert chain("m", long + b"more") == chain("m", long)


# What was sent


def test_what_was_sent_is_matched_by_its_leading_chunks() -> None:
    """As many as were sent; none of what begins otherwise."""
    sent = PrefixMap()
    one = chain("m", text(1, 2, 3))
    assert sent.matched(one) == 0
    sent.sent(one, 768, ROOM)
    assert (sent.matched(one), sent.matched(one[:2]), sent.matched(())) == (3, 2, 0)
    assert sent.matched(chain("m", text(1, 2, 9, 3))) == 2
    assert sent.matched(chain("m", text(2, 3))) == 0
    sent.forget()
    assert (sent.matched(one), len(sent)) == (0, 0)


def test_a_pool_holds_so_much() -> None:
    """What was sent within its last half is known, what was not within the whole of it is forgotten."""
    sent = PrefixMap()
    prompts = [chain(number, text(1, 2)) for number in range(8)]
    for prompt in prompts:
        sent.sent(prompt, 512, room_tokens=2048)
    assert [sent.matched(prompt) for prompt in prompts] == [0, 0, 0, 0, 2, 2, 2, 2]
    sent.sent(prompts[4], 512, room_tokens=2048)
    sent.sent(chain(9, text(1, 2)), 512, room_tokens=2048)
    assert [sent.matched(prompt) for prompt in prompts[4:]] == [2, 0, 2, 2]


def test_what_is_sent_again_stays_and_takes_no_more_room() -> None:
    """A conversation that goes on is not pushed out by itself."""
    sent = PrefixMap()
    long = chain("long", text(*range(4)))
    for _ in range(100):
        sent.sent(long, 1024, room_tokens=3000)
    other = chain("other", text(1))
    sent.sent(other, 256, room_tokens=3000)
    assert (sent.matched(long), sent.matched(other), len(sent)) == (4, 1, 5)


def test_a_prompt_larger_than_the_room_is_kept_alone() -> None:
    """Its own next turn finds it; what was there before the one before it is gone."""
    sent = PrefixMap()
    first, large = chain("first", text(1)), chain("large", text(*range(60)))
    for prompt, tokens in ((first, 256), (large, 15_360), (large, 15_360)):
        sent.sent(prompt, tokens, room_tokens=1024)
    assert (sent.matched(large), sent.matched(first)) == (60, 1)
    sent.sent(chain("other", text(1)), 256, room_tokens=1024)
    assert sent.matched(first) == 0


PROMPTS = st.lists(
    st.tuples(st.lists(st.integers(0, 2), min_size=1, max_size=5), st.integers(1, 900), st.integers(1, 6000)),
    max_size=60,
)


@given(PROMPTS)
def test_what_is_known_of_a_prompt_is_always_its_first_chunks(prompts: list[tuple[list[int], int, int]]) -> None:
    """So halving finds how many; and what was just sent is known in full."""
    sent = PrefixMap()
    names = [chain("m", text(*chunks)) for chunks, _, _ in prompts]
    for name, (_, tokens, room) in zip(names, prompts, strict=True):
        sent.sent(name, tokens, room)
        assert sent.matched(name) == len(name)
        for other in names:
            known = [each in sent._young or each in sent._old for each in other]
            assert sent.matched(other) == len(list(takewhile(bool, known))) == sum(known)


@given(st.lists(st.integers(1, CHUNKS_MAX), min_size=1, max_size=20), st.integers(0, 2**40))
def test_memory_is_bounded(lengths: list[int], room: int) -> None:
    """By the room where that is small, by a constant where it is not; whatever comes in whatever order."""
    sent = PrefixMap()
    for number in range(1500):
        length = lengths[number % len(lengths)]
        sent.sent(tuple(range(number * CHUNKS_MAX, number * CHUNKS_MAX + length)), 16 * length, room)
    assert len(sent) <= min(REMEMBERED_MAX, max(2 * CHUNKS_MAX, room / 16))
    assert sent.matched(tuple(range(1499 * CHUNKS_MAX, 1499 * CHUNKS_MAX + 1))) == 1


def test_a_rehearsal_leaves_the_original_alone() -> None:
    """It copies the younger part."""
    sent = PrefixMap()
    one, two = chain("m", text(1)), chain("m", text(2))
    sent.sent(one, 256, ROOM)
    trial = rehearsal(sent)
    trial.sent(two, 256, ROOM)
    trial.sent(chain("m", text(3)), 256, 1)
    assert (trial.matched(one), trial.matched(two)) == (1, 1)
    assert (sent.matched(one), sent.matched(two), len(sent)) == (1, 0, 1)


# Trust


def test_at_first_half_is_believed() -> None:
    """Until something is known."""
    assert CacheTrust().share == PRIOR_SHARE == 0.5


@pytest.mark.parametrize(("part", "least", "most"), [(0.0, 0.0, 0.07), (0.6, 0.55, 0.65), (1.0, 0.93, 1.0)])
def test_a_counter_of_hits_is_held_against_what_was_predicted(part: float, least: float, most: float) -> None:
    """Look by look, however late a hit is counted; what it counted before the first look is no evidence."""
    trust = CacheTrust()
    counter = 1e6
    trust.read(counter)
    for _ in range(100):
        trust.sent(4000)
        trust.read(counter)
        counter += 4000 * part
    trust.read(counter)
    assert least <= trust.share <= most


def test_hits_beyond_what_was_predicted_prove_nothing() -> None:
    """They are others'; nor can they be saved up for when ours are missed."""
    trust = CacheTrust()
    trust.read(0.0)
    trust.read(1e9)
    assert trust.share == PRIOR_SHARE
    for look in range(1, 60):
        trust.sent(10_000)
        trust.read(1e9 + look)
    assert trust.share < 0.05


def test_answers_that_tell_are_believed_before_counters() -> None:
    """They are exact; an engine that never tells is not taken to have found nothing."""
    trust = CacheTrust()
    for _ in range(50):
        trust.answered(4000, 0)
    assert trust.share == PRIOR_SHARE
    trust.read(0.0)
    for _ in range(100):
        trust.answered(4000, 9000)
        trust.sent(4000)
        trust.read(0.0)
    assert trust.share > 0.93
    for _ in range(100):
        trust.answered(4000, 0)
    assert trust.share < 0.3


def test_what_was_seen_long_ago_is_forgotten() -> None:
    """A cache that stops keeping what it is sent is found out after so many tokens, however good it was."""
    trust = CacheTrust()
    for found in (4000, 0):
        for _ in range(3 * EVIDENCE_TOKENS // 4000):
            trust.answered(4000, found)
    assert trust.share < 0.2
    assert trust.predicted_tokens <= EVIDENCE_TOKENS + PRIOR_TOKENS


def test_a_restart_is_no_evidence() -> None:
    """Its counter begins anew, what was sent before it was lost; an engine that does not count says nothing."""
    trust = CacheTrust()
    trust.read(5000.0)
    trust.sent(4000)
    trust.restarted()
    trust.read(0.0)
    trust.sent(4000)
    trust.read(None)
    trust.read(10.0)
    assert trust.share == PRIOR_SHARE
