"""The policy of admission, rule by rule: promises about time, tenants, and what is learned from the engine."""

from dataclasses import replace

import pytest

from estimator.output_length import OutputForecast, OutputLengths
from gateway.admission.events import Learned
from gateway.admission.limits import AdmissionLimits
from gateway.admission.pace import SAMPLES_LEAST
from gateway.domain import Reason, Ticket
from tests.admission.words import BLOCK, MODEL, POOL, Playbook, reading, ticket


def lengths_of(tokens: int) -> OutputForecast:
    """After many answers of about that length."""
    lengths = OutputLengths()
    for k in range(600):
        lengths.learn(tokens // 2 + k * tokens // 600, ended=True)
    return lengths.forecast()


SHORT, LONG = lengths_of(30), lengths_of(900)
LARGE = 1000
"""Blocks of a prompt that takes most of a second to read."""


def wanted_by(ticket_id: int, first_token_by: float, blocks: float = 10) -> Ticket:
    """A request that is patient in line, but not with its first token."""
    return replace(ticket(ticket_id, blocks, deadline=99.0), first_token_by=first_token_by)


# First tokens in time


def known() -> Playbook:
    """With an engine that has been seen at work, and is as fast as was assumed."""
    play = Playbook().engine(blocks=10_000)
    play.admission._roster.engines["a"].pace.times.samples = SAMPLES_LEAST
    return play


def test_who_would_be_late_is_told_so_instead_of_being_sent() -> None:
    """At once when its turn comes: others may use the time that it would have wasted."""
    play = Playbook().engine(blocks=10_000).arrives(ticket(1, LARGE), "1>a")
    play.at(0.75).arrives(wanted_by(2, 0.76), "2!queue_timeout").arrives(wanted_by(3, 5.0), "3>a")
    assert play.refusals[2].retry_after_s is not None


def test_who_becomes_late_in_line_is_told_so_then() -> None:
    """Its turn comes too late; whoever stands behind it goes in its place."""
    play = known().arrives(ticket(1, LARGE), "1>a").arrives(wanted_by(2, 0.74))
    play.arrives(wanted_by(3, 50.0, 11))
    play.until(lambda: play.depth == 0)
    assert play.refusals[2].reason is Reason.QUEUE_TIMEOUT
    assert play.admits[3].backend == "a"


def test_in_observe_mode_who_is_late_is_sent_all_the_same() -> None:
    """It refuses nothing, and what came of it teaches nothing wrong."""
    play = Playbook(AdmissionLimits(observe=True)).engine(blocks=10_000).arrives(ticket(1, LARGE), "1>a")
    play.at(0.75).arrives(wanted_by(2, 0.7), "2>a").at(3.0).progresses(1, 1).progresses(2, 1)
    assert play.admission._roster.engines["a"].pace.late_share == 0.0


def test_an_idle_engine_takes_whoever_comes() -> None:
    """Nowhere would it be sooner."""
    Playbook().engine(blocks=10_000).arrives(wanted_by(1, 0.001, LARGE), "1>a")


def test_a_free_engine_is_better_than_a_late_one() -> None:
    """Whatever room the late one has."""
    play = Playbook().engine("a", blocks=10_000).engine("b", blocks=100)
    play.arrives(ticket(1, LARGE), "1>a").at(0.75).arrives(wanted_by(2, 0.76), "2>b")


# Prompts no faster than they are read


def test_a_short_prompt_passes_a_long_one_that_is_not_sent_yet() -> None:
    """What waits at the gateway can be overtaken, what waits in the engine cannot."""
    play = known().arrives(ticket(1, LARGE), "1>a")
    play.arrives(ticket(2, LARGE)).at(0.1).arrives(ticket(3, 10))
    play.until(lambda: play.depth == 0)
    assert play.admits[3].waited_s < play.admits[2].waited_s
    assert 0.6 < play.admits[3].waited_s + 0.1 < 0.8


def test_small_prompts_are_not_spaced() -> None:
    """As long as they are read at once."""
    play = Playbook().engine(blocks=10_000)
    for number in range(1, 10):
        play.arrives(ticket(number, 10), f"{number}>a")


# Time per token


def test_who_is_promised_fast_tokens_keeps_others_out() -> None:
    """As soon as steps get too long for it; with its end they come in."""
    play = Playbook().engine(blocks=10_000)
    play.admission._roster.engines["a"].pace.times.kv_token_s = 1e-6
    play.arrives(replace(ticket(1, 10), token_interval_max_s=0.05), "1>a")
    play.at(1.0).arrives(ticket(2, 1500), "2>a").at(3.0).arrives(ticket(3, 10, deadline=60.0))
    assert play.admission.next_timer() is not None
    play.at(4.0).ends(1, "3>a")


# What is learned from the engine


def test_preemptions_hold_memory_back_for_a_while() -> None:
    """It fades; the headroom tells."""
    play = Playbook().engine()
    play.at(61.0).reads(reading(61.0, preemptions=40))
    held = play.backend().held_back_tokens
    assert (held, play.backend().headroom_tokens) == (2 * BLOCK, (POOL - 2) * BLOCK)
    assert play.backend().margin_share == pytest.approx(0.02)
    play.arrives(ticket(1, 60), "1>a").arrives(ticket(2, 39, deadline=99.0))
    play.ends(1, "2>a").ends(2)
    play.at(2000.0).reads(reading(2000.0, preemptions=40))
    assert (play.backend().held_back_tokens, play.backend().margin_share) == (0, 0.0)


def test_who_waits_and_who_runs_is_priced_by_what_is_known_now() -> None:
    """Answers turn out long: who was sent before reserves more, and who waits needs more."""
    play = Playbook().engine(blocks=1000)
    play.arrives(ticket(1, 200, output=2000, forecast=SHORT), "1>a")
    before = play.backend().reserved_tokens
    play.event(Learned(MODEL, LONG)).at(1.0).progresses(1, 1)
    play.arrives(ticket(2, 200, output=2000, forecast=SHORT), "2>a")
    assert play.backend().reserved_tokens > 1.2 * before
    assert play.admits[2].kv_tokens > play.admits[1].kv_tokens


# Tenants


def test_tenants_are_shown_with_what_they_hold_and_have_held() -> None:
    """By name; over all engines."""
    play = Playbook().engine("a").engine("b")
    play.arrives(ticket(1, 50, tenant="t"), "1>a").arrives(ticket(2, 70, tenant="u"), "2>b")
    play.at(2.0).ends(1)
    first, second = play.admission.snapshot().tenants
    assert (first.name, first.reserved_tokens, first.kv_token_seconds) == ("t", 0, 2 * 49 * BLOCK)
    assert (second.name, second.reserved_tokens) == ("u", 70 * BLOCK)


@pytest.mark.parametrize("kv_share", [0.5, 1.0])
def test_a_tenant_with_huge_answers_harms_itself_first(kv_share: float) -> None:
    """Expected to be short, they are charged with what they came to: its next one waits, and holds up nobody else."""
    play = Playbook().engine(blocks=1300)

    def wish(number: int, blocks: int) -> Ticket:
        return ticket(number, blocks, output=4000, tenant="greedy", kv_share=kv_share, forecast=SHORT, deadline=1e3)

    for number in range(1, 5):
        play.at(0.1 * number).arrives(wish(number, 310), f"{number}>a")
    for tokens in range(10, 2100, 10):
        play.at(1.0 + tokens / 30)
        for number in range(1, 5):
            play.progresses(number, tokens)
    play.reads(reading(play.now, blocks=1300, used=600, running=4)).arrives(wish(5, 260))
    honest = ticket(6, 55, tenant="honest", kv_share=kv_share, deadline=1e3)
    play.arrives(honest, *(["6>a"] if kv_share < 1 else []))
