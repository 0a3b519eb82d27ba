"""The pace at which an engine may be given work: three guards, and what they learn."""

import math

import pytest
from hypothesis import given, settings, strategies as st

from gateway.admission.pace import (
    ANSWER_TOKENS_LEAST,
    BURST_S,
    EARLIEST_SHARE,
    INTERVAL_SHARE,
    LATEST_SHARE,
    READ_SHARE_MOST,
    SAMPLE_MAX_S,
    SAMPLE_STEPS,
    STEP_TOKENS,
    TIGHTNESS_LEAST,
    TIGHTNESS_MOST,
    Pace,
    Prompt,
)
from gateway.admission.steps import BASE_S, KV_TOKEN_S, PROMPT_TOKEN_S


def prompt(
    tokens: int, now: float = 0.0, *, expected_s: float = 1.0, limit_s: float = 2.0, silent: bool = False
) -> Prompt:
    """One that is sent now."""
    return Prompt(tokens, now, now + expected_s, limit_s, silent)


def sends(pace: Pace, ticket_id: int, tokens: int, now: float = 0.0, *, spare: float = 1.0) -> Pace:
    """It is sent, whatever the pace says."""
    pace.sent(ticket_id, prompt(tokens, now), spare)
    return pace


# Prompts no faster than they are read


def test_prompts_are_sent_as_fast_as_they_are_read() -> None:
    """One that takes a second to read keeps the next back for a second, less what may be sent ahead."""
    pace = sends(Pace(), 1, int(1.0 / PROMPT_TOKEN_S))
    assert pace.turn_s(0.0, 1.0) == pytest.approx(1.0 - BURST_S)
    assert pace.turn_s(0.5, 1.0) == pytest.approx(0.5 - BURST_S)
    assert pace.turn_s(1.0 - BURST_S + 1e-9, 1.0) == 0.0


def test_what_was_read_sooner_than_was_thought_holds_nobody_up() -> None:
    """A thousand prompts of a second each that are all answered at once: the next may be sent."""
    pace = Pace()
    for number in range(1000):
        sends(pace, number, int(1.0 / PROMPT_TOKEN_S))
    assert pace.turn_s(0.0, 1.0) > 900
    for number in range(500):
        pace.first_token(number, 0.0)
        pace.gone(500 + number, finished=True)
    assert pace.turn_s(0.0, 1.0) == 0.0


def test_busy_steps_leave_less_time_for_prompts() -> None:
    """With half of the time it takes twice as long; with none, next to nothing is left and it is no division by 0."""
    pace = sends(Pace(), 1, int(1.0 / PROMPT_TOKEN_S), spare=0.5)
    assert pace.turn_s(0.0, 0.5) == pytest.approx((1.0 - BURST_S * 0.5) / 0.5)
    assert 0 < pace.turn_s(0.0, -3.0) < math.inf


def test_an_idle_engine_takes_a_burst_at_once_and_no_more() -> None:
    """However long it idled."""
    pace = sends(Pace(), 1, 1)
    small = int(BURST_S / PROMPT_TOKEN_S / 4)
    sent = 0
    while pace.turn_s(1e6, 1.0) == 0:
        sends(pace, 2 + sent, small, 1e6)
        sent += 1
    assert sent == 5


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["sent", "first", "gone", "advance", "answered"]),
            st.integers(0, 5),
            st.floats(0, 20),
            st.floats(-2, 1),
            st.integers(0, 50_000),
            st.one_of(st.floats(-5, 30), st.just(math.inf)),
        ),
        max_size=40,
    )
)
def test_what_is_learned_stays_within_its_bounds(
    steps: list[tuple[str, int, float, float, int, float]],
) -> None:
    """Burst, lateness and tightness, and the sum of what is being read, whatever happens."""
    pace, now, longest_s = Pace(), 0.0, 0.0
    for step, number, seconds, spare, tokens, limit_s in steps:
        now += seconds
        if step == "sent" and number not in pace.reading:
            pace.sent(number, prompt(tokens, now, expected_s=seconds, limit_s=limit_s, silent=number == 0), spare)
            longest_s = max(longest_s, limit_s) if limit_s < math.inf else longest_s
        elif step == "first":
            pace.first_token(number, now)
        elif step == "gone":
            pace.gone(number)
        elif step == "advance":
            pace.advanced(now, seconds, number, tokens, tokens % 7 * 100)
        elif step == "answered":
            pace.answered(seconds, limit_s, tokens)
        assert pace.burst_s <= BURST_S
        assert 0 <= pace.turn_s(now, spare) < math.inf
        assert EARLIEST_SHARE <= pace.late_share <= LATEST_SHARE
        assert TIGHTNESS_LEAST <= pace.tightness <= TIGHTNESS_MOST
        assert pace.reading_tokens == sum(reading.tokens for reading in pace.reading.values())
        assert pace.first_token_s(100, 3, 1000, now, 0.001) >= 0.0


# Steps no longer than a token may take


def test_steps_may_fill_most_of_what_a_token_may_take() -> None:
    """The nearer predicted steps come to it, the less is left for prompts; beyond it, nothing."""
    pace = Pace()
    limit_s = INTERVAL_SHARE * 0.1
    assert pace.step_limit_s(0.1) == pytest.approx(limit_s)
    half = (limit_s / 2 - BASE_S) / KV_TOKEN_S
    assert pace.spare(0.1, 10, half) == pytest.approx(0.5)
    assert pace.spare(0.1, 10, 2 * (limit_s - BASE_S) / KV_TOKEN_S) < 0
    assert pace.spare(math.inf, 10, 1e12) == 1.0


def test_an_engine_that_is_too_slow_alone_is_used_all_the_same() -> None:
    """A limit that it can never keep would keep everybody out."""
    assert Pace().step_limit_s(BASE_S) == Pace().step_limit_s(0.0) == math.inf
    assert Pace().step_limit_s(1.1 * BASE_S) == BASE_S
    assert Pace().spare(1.1 * BASE_S, 0, 0) == 0.0


def test_slow_answers_tighten_the_limit_and_good_ones_loosen_it_slowly() -> None:
    """One in a hundred may be slow; short answers, and those nobody waits for, teach nothing."""
    pace = Pace()
    pace.answered(0.2, 0.1, ANSWER_TOKENS_LEAST - 1)
    pace.answered(0.2, math.inf, 100)
    assert pace.tightness == 1.0
    pace.answered(0.2, 0.1, 100)
    slow = pace.tightness
    assert slow < 1.0
    for _ in range(99):
        pace.answered(0.05, 0.1, 100)
    assert pace.tightness == pytest.approx(1.0)
    for _ in range(10_000):
        pace.answered(0.2, 0.1, 100)
    assert pace.step_limit_s(0.1) == pytest.approx(INTERVAL_SHARE * TIGHTNESS_LEAST * 0.1)


# First tokens in time


def test_a_first_token_waits_for_all_prompts_before_it() -> None:
    """In chunks, between each of which a step is made, and half of the one that runs."""
    pace = sends(Pace(), 1, 3 * STEP_TOKENS)
    alone = Pace().first_token_s(STEP_TOKENS, 0, 0, 0.0)
    assert alone == pytest.approx(STEP_TOKENS * PROMPT_TOKEN_S + 1.5 * BASE_S)
    behind = pace.first_token_s(STEP_TOKENS, 0, 0, 0.0)
    assert behind == pytest.approx(4 * STEP_TOKENS * PROMPT_TOKEN_S + 4.5 * BASE_S)


def test_what_is_read_already_is_not_waited_for() -> None:
    """But the head is never taken to be read in full before its first token has come."""
    pace = sends(Pace(), 1, 4 * STEP_TOKENS)
    times = [pace.first_token_s(1, 0, 0, now) for now in (0.0, 0.2, 0.4, 60.0, 90.0)]
    assert times == sorted(times, reverse=True)
    assert times[-1] == times[-2] >= (1 - READ_SHARE_MOST) * 4 * STEP_TOKENS * PROMPT_TOKEN_S
    assert pace.first_token(1, 90.0) == 4 * STEP_TOKENS
    assert pace.first_token(1, 90.0) == 0
    assert pace.first_token_s(1, 0, 0, 90.0) < 2 * BASE_S


def test_first_tokens_that_come_late_make_later_predictions() -> None:
    """Until one in five comes late; those that nobody waits for, or that were late when sent, teach nothing."""
    pace = Pace()
    for limit_s in (math.inf, 0.0, -3.0):
        pace.sent(0, prompt(10, limit_s=limit_s), 1.0)
        pace.first_token(0, 99.0)
        assert pace.late_share == 0.0
    for number in range(1000):
        pace.sent(number, prompt(10, limit_s=2.0), 1.0)
        pace.first_token(number, 99.0)
    assert pace.late_share == LATEST_SHARE
    for number in range(1000):
        pace.sent(number, prompt(10, limit_s=2.0), 1.0)
        pace.first_token(number, 0.5)
    assert pace.late_share == EARLIEST_SHARE
    for number in range(1000):
        pace.sent(number, prompt(10, limit_s=2.0), 1.0)
        pace.first_token(number, 99.0 if number % 5 == 0 else 0.5)
    assert EARLIEST_SHARE <= pace.late_share < LATEST_SHARE


def test_who_shows_no_first_token_is_read_when_it_should_be() -> None:
    """Else an engine that answers without streams would seem to read for ever. No report of progress is needed."""
    pace = Pace()
    for number in range(100):
        pace.sent(number, prompt(4000, expected_s=0.5, silent=True), 1.0)
    assert pace.first_token_s(10, 0, 0, 0.4) > 5
    assert pace.first_token_s(10, 0, 0, 0.5) < 0.1
    assert (pace.reading, pace.reading_tokens) == ({}, 0)


def test_who_leaves_is_not_read() -> None:
    """Its prompt is waited for no longer."""
    pace = sends(sends(Pace(), 1, 50_000), 2, 100)
    pace.gone(1)
    pace.gone(1)
    assert pace.reading_tokens == 100


# Samples


def test_a_sample_spans_some_steps_or_ends_with_a_prompt() -> None:
    """The time between two looks alone would say more about the looks."""
    pace = Pace()
    pace.advanced(0.0, 0, 4, 4000, 0)
    pace.advanced(0.1, SAMPLE_STEPS - 1, 4, 4000, 0)
    assert pace.times.samples == 0
    pace.advanced(0.2, 1, 4, 4000, 0)
    assert pace.times.samples == 1
    pace.advanced(0.3, 1, 4, 4000, 700)
    assert pace.times.samples == 2


def test_steps_while_a_prompt_is_read_count_with_the_prompt() -> None:
    """Its chunks make them longer."""
    pace = sends(Pace(), 1, 100)
    pace.advanced(0.0, 0, 4, 4000, 0)
    pace.advanced(0.5, 3 * SAMPLE_STEPS, 4, 4000, 0)
    assert pace.times.samples == 0
    pace.advanced(0.6, SAMPLE_STEPS, 4, 4000, pace.first_token(1, 0.6))
    assert pace.times.samples == 1


def test_a_pause_is_no_sample() -> None:
    """Neither when nothing runs nor when nothing was heard for long."""
    pace = Pace()
    pace.advanced(0.0, 0, 4, 4000, 0)
    pace.advanced(SAMPLE_MAX_S + 0.1, 100, 4, 4000, 500)
    pace.advanced(6.0, 100, 0, 0, 0)
    assert pace.times.samples == 0
    pace.advanced(6.2, 10, 4, 4000, 0)
    assert pace.times.samples == 1


def test_no_sample_spans_the_time_before_an_engine_had_something_to_do() -> None:
    """Else its first prompt would seem to have been read for as long as nobody asked for anything."""
    pace = Pace()
    pace.advanced(0.0, 0, 4, 4000, 0)
    pace.woken(4.0)
    pace.sent(1, prompt(1000, 4.0), 1.0)
    pace.advanced(4.1, 0, 1, 1000, pace.first_token(1, 4.1))
    assert pace.times.samples == 1
    assert pace.times.step_s(1, 1000) + 1000 * pace.times.prompt_token_s == pytest.approx(0.1, rel=0.1)


def test_short_prompts_take_a_step_and_say_little_of_how_fast_prompts_are_read() -> None:
    """Twenty tokens whose first token comes with the next step: else a long prompt would seem to take seconds."""
    pace, now = Pace(), 0.0
    for number in range(100):
        pace.woken(now)
        pace.sent(number, prompt(20, now), 1.0)
        now += 0.02
        pace.advanced(now, 0, 1, 20, pace.first_token(number, now))
        pace.gone(number, finished=True)
        now += 0.1
    assert pace.times.prompt_token_s <= 2 * PROMPT_TOKEN_S
    assert pace.times.base_s == pytest.approx(0.02, rel=0.1)


def test_prompts_whose_first_tokens_are_not_seen_took_their_time_as_well() -> None:
    """Of answers that do not stream, and of those that ended before anybody looked; those that left, perhaps not."""
    pace = Pace()
    pace.advanced(0.0, 0, 4, 4000, 0)
    pace.sent(1, prompt(3000, silent=True, expected_s=0.2), 1.0)
    pace.sent(2, prompt(2000), 1.0)
    pace.sent(3, prompt(9000), 1.0)
    pace.gone(2, finished=True)
    pace.gone(3)
    pace.advanced(0.5, 2, 4, 4000, 0)
    assert pace.times.samples == 1
    steps_s = 2 * pace.times.step_s(4, 4000)
    assert steps_s + 5000 * pace.times.prompt_token_s == pytest.approx(0.5, rel=0.01)


def test_what_an_engine_takes_is_learned_from_its_streams() -> None:
    """Steps of 40 ms and 8,000 tokens of a prompt in a second."""
    pace, now = Pace(), 0.0
    pace.advanced(now, 0, 8, 8000, 0)
    for number in range(200):
        now += 10 * 0.04
        pace.advanced(now, 10, 8, 8000, 0)
        pace.sent(number, prompt(2000, now), 1.0)
        now += 0.04 + 0.25
        pace.advanced(now, 1, 8, 8000, pace.first_token(number, now))
    assert pace.times.step_s(8, 8000) == pytest.approx(0.04, rel=0.02)
    assert pace.times.prompt_token_s == pytest.approx(1 / 8000, rel=0.02)
