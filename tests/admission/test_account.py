"""The books of one engine; the rules themselves are in the playbooks."""

from dataclasses import replace

import pytest

from estimator.output_length import OutputLengths
from gateway.admission.account import LOOK_BLOCKS, NEVER, EngineAccount
from gateway.admission.account_snapshot import snapshot_of
from gateway.admission.limits import AdmissionLimits
from gateway.admission.pace import SAMPLES_LEAST
from gateway.admission.standing import Standing
from gateway.domain import BackendSpec, Outcome, Reason, Ticket, Usage
from gateway.routing.choose import Holds, Lack, Offer
from tests.admission.words import BLOCK, POOL, reading, ticket


def engine(**words: int) -> EngineAccount:
    """One that is up and idle."""
    account = EngineAccount(Standing.unknown(BackendSpec("a"), AdmissionLimits()), AdmissionLimits())
    assert account.observe(reading(0.0, **words), 0.0)  # type: ignore[arg-type]
    return account


def offer(
    account: EngineAccount, blocks: float, now: float = 0.0, backlog: int = 1, output: int = BLOCK
) -> Offer | Lack:
    """For a request of that size."""
    return account.offer(ticket(99, blocks, output=output), now, backlog=backlog, contended=False)


def fast(account: EngineAccount) -> EngineAccount:
    """It has been seen to generate 100 tokens a second."""
    account.speed.learn(1000, 10.0)
    return account


def test_the_offer_tells_what_stays_free() -> None:
    """At the peak, as a part of the pool."""
    account = engine()
    account.admit(ticket(1, 40), 0.0, backlog=1)
    assert offer(account, 40) == Offer("a", 0.2)
    assert offer(account, 61) == Lack(Reason.HEADROOM, Holds.ALL)
    assert offer(account, 101) == Lack(Reason.TOO_LARGE)
    assert account.anyway(0.0) == Offer("a", 0.6)


def test_where_overflow_is_fatal_ends_are_added_up() -> None:
    """The first will have ended before the second is long: elsewhere both fit."""
    for fatal in (False, True):
        account = engine()
        assert account.memory is not None
        account.memory.resize(replace(account.capacity, overflow_is_fatal=fatal), 0.0)
        account.admit(ticket(1, 60), 0.0, backlog=1)
        answer = offer(account, 60, output=50 * BLOCK)
        assert answer == (Lack(Reason.HEADROOM, Holds.ALL) if fatal else Offer("a", 0.28 - 1.0))
        assert snapshot_of(account, 0.0).reserved_tokens == account.reserved_blocks(0.0) * BLOCK == 60 * BLOCK


def test_room_for_sure_comes_before_room_that_is_likely() -> None:
    """An engine that holds all even at their hard ends needs no forecast, and is preferred to one that does."""
    account = engine()
    sure = offer(account, 10, output=BLOCK)
    account.admit(ticket(1, 60), 0.0, backlog=1)
    likely = offer(account, 60, output=50 * BLOCK)
    assert isinstance(sure, Offer)
    assert isinstance(likely, Offer)
    assert 0 <= sure.free_share <= 1
    assert -1 <= likely.free_share < 0


@pytest.mark.parametrize(("blocks", "output"), [(10, BLOCK), (60, 50 * BLOCK)])
@pytest.mark.parametrize("first_token_by", [NEVER, 9.0])
def test_what_was_offered_is_not_reckoned_again(blocks: float, output: int, first_token_by: float) -> None:
    """With the offer or without it, the same is noted: where there is room for sure, and where a forecast is asked."""
    came = replace(ticket(2, blocks, output=output), first_token_by=first_token_by, token_interval_max_s=0.2)
    books = []
    for tells in (True, False):
        account = fast(engine())
        account.admit(ticket(1, 60, streamed=False), 0.0, backlog=1)
        offered = account.offer(came, 0.1, backlog=1, contended=False)
        assert isinstance(offered, Offer)
        account.admit(came, 0.1, backlog=1, offer=offered if tells else None)
        books.append((account.pace, offered))
    assert books[0] == books[1]


def test_under_a_backlog_starts_are_spaced() -> None:
    """So that requests stand at all stages of growth at once; without one, or on an idle engine, they are not."""
    account = fast(engine())
    lease = account.admit(ticket(1, 20, output=160), 0.0, backlog=50)
    assert 0.1 < account.next_start < 1.0
    assert offer(account, 20, 0.05, backlog=50) == Lack(Reason.HEADROOM, Holds.ALL)
    assert account.next_look(0.05) == account.next_start
    assert isinstance(offer(account, 20, 0.05, backlog=1), Offer)
    assert isinstance(offer(account, 20, account.next_start, backlog=50), Offer)
    account.end(lease, Outcome.FINISHED, Usage(160, 160), 0.06)
    assert isinstance(offer(account, 20, 0.06, backlog=50), Offer)


def test_the_next_look_is_when_time_alone_may_bring_room() -> None:
    """After a pause, after a start, or with growth; never if nothing runs here."""
    account = engine()
    assert account.next_look(0.0) == NEVER
    account.standing.asked_for_pause(3.0)
    assert account.next_look(0.0) == 3.0
    account.admit(ticket(1, 40), 4.0, backlog=1)
    assert account.next_look(4.0) == pytest.approx(4.0 + LOOK_BLOCKS * BLOCK / 30)
    for _ in range(3):
        account.standing.missed(reachable=False)
    assert account.next_look(4.0) == NEVER


def test_ends_teach_speed_only_if_the_engine_ended_them() -> None:
    """A cut answer's time tells less, and its tokens may be missing."""
    account = engine()
    for number, outcome in enumerate((Outcome.CANCELLED, Outcome.REFUSED, Outcome.FINISHED)):
        lease = account.admit(ticket(number, 10, n=2), 0.0, backlog=1)
        assert account.speed.tokens_per_s is None
        account.end(lease, outcome, Usage(10, 400), 2.0)
        account.end(lease, outcome, Usage(10, 400), 2.0)
    assert account.speed.tokens_per_s == pytest.approx(100.0)


def test_the_snapshot_adds_up() -> None:
    """Capacity is headroom, reserved, draining, foreign and what is held back."""
    account = engine(used=20, running=1)
    account.admit(ticket(1, 30), 0.0, backlog=1)
    drained = account.admit(ticket(2, 10), 0.0, backlog=1)
    account.end(drained, Outcome.BROKEN, None, 1.0)
    shown = snapshot_of(account, 6.0)
    parts = [shown.headroom_tokens, shown.reserved_tokens, shown.draining_tokens, shown.foreign_tokens]
    assert [tokens // BLOCK for tokens in (*parts, shown.held_back_tokens)] == [30, 30, 10, 20, 10]
    assert sum(parts) + shown.held_back_tokens == POOL * BLOCK
    assert (shown.requests, shown.resident_tokens) == (1, 29 * BLOCK)


def test_before_it_is_known_it_is_nothing() -> None:
    """All zeros."""
    account = EngineAccount(Standing.unknown(BackendSpec("a"), AdmissionLimits()), AdmissionLimits())
    shown = snapshot_of(account, 0.0)
    assert (shown.capacity_tokens, shown.headroom_tokens, shown.reserved_tokens, shown.telemetry_age_s) == (
        0,
        0,
        0,
        None,
    )
    assert (account.allowed_blocks(0.0), account.held_back_blocks(0.0), account.next_look(0.0)) == (0, 0, NEVER)
    account.settle_unheard(0.0)
    account.check()


def test_answers_that_outlive_their_likely_end_make_room_wait() -> None:
    """What is reserved follows what is left to come, not what was expected at first."""
    lengths = OutputLengths()
    for _ in range(1000):
        lengths.learn(50, ended=True)
    account = engine()
    leases = [account.admit(ticket(k, 64, output=1000, forecast=lengths.forecast()), 0.0, backlog=1) for k in range(8)]
    young = account.reserved_blocks(0.0)
    account.progressed([(lease, 200) for lease in leases], 0.9)
    assert account.reserved_blocks(1.0) > 2 * young


def asks(account: EngineAccount, what: Ticket, now: float = 0.0, *, contended: bool = False) -> Offer | Lack:
    """What it is offered."""
    return account.offer(what, now, backlog=1, contended=contended)


FULL = Lack(Reason.HEADROOM, Holds.ALL)


def test_nothing_is_sent_while_steps_would_be_too_long_for_those_who_run() -> None:
    """The strictest of all promises counts, until its request has ended; an engine that nobody hurries takes all."""
    account = engine(blocks=10_000)
    account.pace.times.kv_token_s = 1e-6
    hurried = replace(ticket(1, 100), token_interval_max_s=0.05)
    lease = account.admit(hurried, 0.0, backlog=1)
    for number in range(2, 5):
        account.admit(ticket(number, 1000), 1.0 * number, backlog=1)
    assert account.pool is not None
    assert account.pool.kv_tokens > 0.8 * 0.05 / 1e-6
    assert asks(account, ticket(9, 10), 9.0) == FULL
    account.end(lease, Outcome.FINISHED, None, 9.0)
    assert isinstance(asks(account, ticket(9, 10), 9.0), Offer)
    assert asks(account, replace(ticket(9, 10), token_interval_max_s=0.05), 9.0) == FULL


def test_prompts_are_sent_no_faster_than_they_are_read() -> None:
    """The next look is when the pace allows another."""
    account = fast(engine(blocks=10_000))
    account.admit(ticket(1, 1000), 0.0, backlog=1)
    assert isinstance(asks(account, ticket(2, 10)), Offer)  # nothing is known yet of how fast that is
    account.pace.times.samples = SAMPLES_LEAST
    reading_s = (1000 * BLOCK - BLOCK) * account.pace.times.prompt_token_s
    assert asks(account, ticket(2, 10)) == FULL
    turn = account.pace.turn_s(0.0, 1.0)
    assert turn == pytest.approx(reading_s - 0.1)
    assert account.next_look(0.0) <= turn
    assert asks(account, ticket(2, 10), turn - 0.01) == FULL
    assert isinstance(asks(account, ticket(2, 10), turn + 1e-6), Offer)


def test_without_a_queue_there_is_no_pace() -> None:
    """It would turn away whom the engine can take."""
    limits = AdmissionLimits(queue_requests_max=0)
    account = EngineAccount(Standing.unknown(BackendSpec("a"), limits), limits)
    account.observe(reading(0.0, blocks=10_000), 0.0)
    account.admit(ticket(1, 1000), 0.0, backlog=1)
    assert isinstance(asks(account, ticket(2, 10)), Offer)


def test_an_offer_says_if_the_first_token_would_be_late() -> None:
    """Behind the prompts that are read; not on an idle engine, where it could not be sooner."""
    account = engine(blocks=10_000)
    assert asks(account, replace(ticket(1, 1000), first_token_by=0.1)) == Offer("a", 0.9)
    account.admit(ticket(1, 1000), 0.0, backlog=1)
    for by, late in ((1.5, False), (0.75, True)):
        answer = asks(account, replace(ticket(2, 10), first_token_by=by), 0.72)
        assert isinstance(answer, Offer)
        assert answer.late is late


@pytest.mark.parametrize("streamed", [True, False])
def test_answers_that_do_not_stream_do_not_seem_to_be_read_for_ever(streamed: bool) -> None:
    """Nobody reports their progress: they are taken to be read when they should be."""
    account = engine(blocks=10_000)
    for number in range(20):
        account.admit(ticket(number, 100, streamed=streamed), 0.2 * number, backlog=1)
    answer = asks(account, replace(ticket(99, 10), first_token_by=5.5), 5.0)
    assert isinstance(answer, Offer)
    assert answer.late is streamed


def test_time_in_which_nobody_asked_for_anything_is_no_prompt() -> None:
    """Between two requests an engine idles; the second is not thought to have been read all that time."""
    account = engine(blocks=1000)
    for now in (0.0, 3.0, 6.0):
        lease = account.admit(ticket(1, 101), now, backlog=1)
        account.progressed([(lease, 1)], now + 0.03 + 0.16)
        account.progressed([(lease, 11)], now + 0.49)
        account.end(lease, Outcome.FINISHED, Usage(1600, 16), now + 0.63)
    assert account.pace.times.prompt_token_s == pytest.approx(1e-4, rel=0.1)
    assert account.pace.times.step_s(1, 1600) == pytest.approx(0.03, rel=0.1)


def test_an_old_report_takes_nothing_back() -> None:
    """Neither from the books nor from what steps are learned from."""
    account = engine(blocks=1000)
    lease = account.admit(ticket(1, 40, output=320, n=2), 0.0, backlog=1)
    account.progressed([(lease, 200)], 1.0)
    account.progressed([(lease, 100)], 1.1)
    assert lease.output_tokens == 200
    assert account.pace._steps == 0
    account.check()


def test_memory_is_charged_to_tenants_over_time() -> None:
    """At each reading and at the end, each second once; per sequence, and for what does not stream by its speed."""
    account = engine(blocks=1000)
    lease = account.admit(ticket(1, 11, n=2, output=80, tenant="t"), 0.0, backlog=1)
    account.observe(reading(2.0, blocks=1000), 2.0)
    assert account.kv_token_seconds == {"t": 2 * 2 * 96}
    account.progressed([(lease, 20)], 3.0)
    account.end(lease, Outcome.FINISHED, None, 4.0)
    assert account.kv_token_seconds == {"t": 2 * 2 * 96 + 2 * (2 * 96 + 20)}
    account.observe(reading(5.0, blocks=1000), 5.0)
    silent = account.admit(ticket(2, 11, output=80, tenant="u", streamed=False), 5.0, backlog=1)
    account.end(silent, Outcome.FINISHED, None, 7.0)
    assert account.kv_token_seconds["u"] == 2 * (96 + 60)


def test_what_is_cached_need_not_be_read() -> None:
    """Learned from what engines say; it makes requests cheaper and first tokens sooner, and takes no memory less."""
    account = engine(blocks=1000)
    wish = ticket(9, 101)
    cost_s, first_token_s = account.cost_s(wish), account._first_token_s(wish, 0.0)
    for number in range(300):
        lease = account.admit(ticket(number, 101), float(number), backlog=1)
        account.end(lease, Outcome.FINISHED, Usage(1600, 16, 1200), number + 0.5)
    assert account.cache.uncached_share == pytest.approx(0.25, abs=0.01)
    assert account.cost_s(wish) < 0.5 * cost_s
    assert account._first_token_s(wish, 300.0) < first_token_s
    assert account.need_blocks(wish) == 101
    lease = account.admit(ticket(1, 10), 300.0, backlog=1)
    account.end(lease, Outcome.FINISHED, Usage(0, 16, 5), 301.0)
    assert 0 <= account.cache.uncached_share <= 1


def test_a_beginning_that_was_sent_there_is_cheaper_there_and_draws_others_like_it() -> None:
    """The offer says how much of it is expected; it needs no less memory. After a restart all is as at first."""
    account = engine(blocks=1000)
    account.observe(replace(reading(0.5, blocks=1000), prefix_hit_tokens=0.0), 0.5)
    wish = replace(ticket(9, 101), prefix=(1, 2, 3), prefix_tokens=1200)
    cost_s, first_token_s, blocks = account.cost_s(wish), account._first_token_s(wish, 1.0), account.need_blocks(wish)
    assert asks(account, wish, 1.0) == Offer("a", 0.899)
    lease = account.admit(replace(wish, id=1), 1.0, backlog=1)
    assert account.pace.reading_tokens == 1600
    account.end(lease, Outcome.FINISHED, Usage(1600, 16), 2.0)
    assert asks(account, wish, 3.0) == Offer("a", 0.899, matched_share=0.5 * 0.75)
    assert account.cost_s(wish) < cost_s
    assert account._first_token_s(wish, 3.0) < first_token_s
    assert account.need_blocks(wish) == blocks
    account.admit(replace(wish, id=2), 3.0, backlog=1)
    assert account.pace.reading_tokens == 1000
    account.observe(replace(reading(4.0, blocks=1000), prefix_hit_tokens=1200.0), 4.0)
    assert snapshot_of(account, 4.0).prefix_trust == account.cache.trust.share > 0.5
    account.observe(replace(reading(5.0, blocks=1000), generation="2"), 5.0)
    assert asks(account, wish, 5.0) == Offer("a", 0.899)


def test_preemptions_hold_a_part_of_the_pool_back() -> None:
    """For a while."""
    account = engine(blocks=1000)
    account.observe(reading(70.0, blocks=1000, preemptions=30), 70.0)
    assert (account.held_back_blocks(70.0), account.allowed_blocks(70.0)) == (20, 980)
    account.observe(reading(670.0, blocks=1000, preemptions=30), 670.0)
    assert account.held_back_blocks(670.0) == 10
    account.observe(reading(1400.0, blocks=1000, preemptions=30), 1400.0)
    assert account.held_back_blocks(1400.0) == 0


def test_a_restart_keeps_what_is_true_of_the_engine_and_forgets_who_ran() -> None:
    """Its times are those of its hardware; what it read then is gone. Ends of before go to the old books."""
    account = engine(blocks=1000)
    lease = account.admit(ticket(1, 400), 0.0, backlog=1)
    times = account.pace.times
    account.observe(replace(reading(1.0, blocks=1000), generation="2"), 1.0)
    assert (account.pace.reading_tokens, account.reserved_blocks(1.0)) == (0, 0)
    assert account.pace.times is times
    again = account.admit(ticket(1, 400), 1.0, backlog=1)
    account.progressed([(lease, 5), (again, 3)], 1.5)
    account.end(lease, Outcome.BROKEN, None, 2.0)
    assert (account.reserved_blocks(2.0), again.output_tokens, lease.output_tokens) == (400, 3, 5)
    account.check()


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_a_share_counts_only_against_others(share: float) -> None:
    """While other tenants wait as well."""
    account = engine()
    account.admit(ticket(1, 45, tenant="t", kv_share=share), 0.0, backlog=1)
    wish = ticket(2, 45, tenant="t", kv_share=share)
    free = asks(account, wish, 1.0)
    assert isinstance(free, Offer)
    limited = asks(account, wish, 1.0, contended=True)
    assert limited == (Lack(Reason.TENANT_LIMIT, Holds.TENANT) if share < 1 else free)


def test_costs_are_of_all_sequences_and_prompts() -> None:
    """An embedding has only its prompt to be read."""
    account = engine()
    one, two = account.cost_s(ticket(1, 20, output=160)), account.cost_s(ticket(1, 20, output=160, n=2))
    assert one < two < 2 * one
    nothing = replace(ticket(1, 20), demand=replace(ticket(1, 20).demand, output_tokens_max=0))
    assert 0 < account.cost_s(nothing) < account.cost_s(ticket(1, 20))
