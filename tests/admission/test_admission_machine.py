"""Promises 1 to 8 of admission under any events in any order, against a plain model of what was told to whom."""

import math
from copy import deepcopy
from dataclasses import replace

from hypothesis import settings, strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule

from estimator.output_length import OutputForecast, OutputLengths
from gateway.admission import fit
from gateway.admission.account import EngineAccount
from gateway.admission.admission import Admission
from gateway.admission.commands import Admit, Command, Refuse
from gateway.admission.events import (
    Arrived,
    BackendAdded,
    BackendBusy,
    BackendChanged,
    BackendDraining,
    BackendMissed,
    BackendRead,
    BackendRemoved,
    BackendResumed,
    DrainStarted,
    Event,
    Learned,
    Left,
    LimitsChanged,
    Progressed,
)
from gateway.admission.limits import AdmissionLimits
from gateway.admission.snapshot import Telemetry
from gateway.domain import (
    NO_LIMITS,
    BackendLimits,
    BackendSpec,
    Outcome,
    Priority,
    Reading,
    TenantLimits,
    Ticket,
    Usage,
)
from gateway.routing.breaker import BreakerState
from tests.admission.words import MODEL, NEVER_ENDING, capacity, ticket

ENGINES = {"a": 50, "b": 120}
CLOUD = "c"
GONE = "configured no more"
LIMITS = AdmissionLimits(queue_requests_max=12)
TENANTS = {"x": NO_LIMITS, "y": NO_LIMITS, "z": TenantLimits(2, 60, 30_000)}


def learned(tokens: int) -> OutputForecast:
    """What is expected after many answers of about that length."""
    lengths = OutputLengths()
    for k in range(400):
        lengths.learn(tokens // 2 + k * tokens // 400, ended=True)
    return lengths.forecast()


FORECASTS = {"known": NEVER_ENDING, "unknown": OutputLengths().forecast(), "short": learned(20), "long": learned(300)}
TOKEN_S = 0.05
"""Slow enough that an outlook is never older than the last token."""
FAILURES = (None, None, b"one", b"two", b"three", b"four")
"""What names a request that its backend failed."""
SECONDS = st.one_of(st.floats(0.001, 0.2), st.floats(0.001, 15.0), st.just(70.0))


class AdmissionMachine(RuleBasedStateMachine):
    """Two engines and a provider, on which anything may happen."""

    tickets: Bundle[int] = Bundle("tickets")

    def __init__(self) -> None:
        super().__init__()
        self.admission = Admission(LIMITS)
        self.twin = Admission(LIMITS)
        self.now = 0.0
        self.last_id = 0
        self.waiting: dict[int, Ticket] = {}
        self.running: dict[int, tuple[str, Ticket, int]] = {}
        """Where, what, and the tokens it has generated."""
        self.lingering: dict[str, list[int]] = {name: [] for name in ENGINES}
        """Blocks of requests that left but that the engine has not noticed."""
        self.blocks = dict(ENGINES)
        self.generation = dict.fromkeys(ENGINES, 1)
        self.shut = False
        self.drained: set[str] = set()
        self.limits = LIMITS
        self.queue_kept = 0
        """Who waited when the limits were turned last."""

    @initialize()
    def set_up(self) -> None:
        for name in ENGINES:
            self.tell(BackendAdded(BackendSpec(name)))
            self.tell(BackendRead(self.truth(name)))
        self.tell(BackendAdded(BackendSpec(CLOUD, hosted=True, spill_only=True, limits=BackendLimits(20, 20_000))))
        self.tell(BackendRead(Reading(CLOUD, self.now, frozenset({MODEL}))))

    # What happens

    @rule(
        target=tickets,
        blocks=st.integers(2, 70),
        output=st.integers(1, 500),
        n=st.sampled_from([1, 1, 1, 2, 5]),
        forecast=st.sampled_from(sorted(FORECASTS)),
        priority=st.sampled_from(Priority),
        tenant=st.sampled_from(sorted(TENANTS)),
        kv_share=st.sampled_from([0.3, 1.0, 1.0]),
        patience_s=st.sampled_from([0.0, 1.0, 30.0, 1e7]),
        excluded=st.sampled_from([(), (), (), ("a",), ("b", CLOUD)]),
        bounded=st.booleans(),
    )
    def arrive(
        self,
        *,
        blocks: int,
        output: int,
        n: int,
        forecast: str,
        priority: Priority,
        tenant: str,
        kv_share: float,
        patience_s: float,
        excluded: tuple[str, ...],
        bounded: bool,
    ) -> int:
        self.last_id += 1
        arrival = ticket(
            self.last_id,
            blocks + math.ceil(output / 16),
            output=output,
            n=n,
            forecast=FORECASTS[forecast],
            priority=priority,
            tenant=tenant,
            kv_share=kv_share,
            deadline=self.now + patience_s,
            excluded=excluded,
            bounded=bounded,
        )
        arrival = replace(arrival, tenant_limits=TENANTS[tenant])
        self.waiting[arrival.id] = arrival
        self.tell(Arrived(arrival))
        return arrival.id

    @rule(gone=consumes(tickets), outcome=st.sampled_from(Outcome), failure=st.sampled_from(FAILURES))
    def end(self, gone: int, outcome: Outcome, failure: bytes | None = None) -> None:
        self.waiting.pop(gone, None)
        usage = None
        if gone in self.running:
            backend, what, generated = self.running.pop(gone)
            if outcome is Outcome.FINISHED:
                usage = Usage(what.demand.prompt_tokens, generated)
            elif not outcome.proves_memory_is_free and backend in ENGINES:
                self.lingering[backend].append(self.resident(backend, what, generated))
        self.tell(Left(gone, outcome, usage, failure))

    @rule(gone=tickets)
    def end_what_may_have_ended(self, gone: int) -> None:
        if gone not in self.running and gone not in self.waiting:
            self.tell(Left(gone, Outcome.FINISHED))

    @rule(tokens=st.integers(1, 120))
    def progress(self, tokens: int) -> None:
        self.now += tokens * TOKEN_S
        for number, (backend, what, generated) in self.running.items():
            most = what.demand.output_tokens_max * what.demand.sequences
            self.running[number] = (backend, what, min(most, generated + tokens * what.demand.sequences))
        self.tell(Progressed(tuple((number, generated) for number, (_, _, generated) in self.running.items())))

    @rule(seconds=SECONDS)
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.wake()

    @rule()
    def timer_fires(self) -> None:
        due = self.admission.next_timer()
        if due is not None and due < self.now + 1e6:
            self.now = max(self.now, due)
            self.wake()

    @rule(name=st.sampled_from(sorted(ENGINES)), late_s=st.sampled_from([0.0, 0.0, 0.3, 4.0]))
    def read_honestly(self, name: str, late_s: float) -> None:
        self.tell(BackendRead(replace(self.truth(name), asked_at=self.now - late_s)))

    @rule(name=st.sampled_from(sorted(ENGINES)), used=st.integers(-5, 10**6), running=st.integers(0, 9))
    def read_a_lie(self, name: str, used: int, running: int) -> None:
        self.tell(BackendRead(replace(self.truth(name), used_blocks=used, running=running)))

    @rule(name=st.sampled_from(sorted(ENGINES)), capacity_too=st.booleans())
    def read_little(self, name: str, capacity_too: bool) -> None:
        truth = replace(self.truth(name), used_blocks=None, running=None, waiting=None)
        self.tell(BackendRead(replace(truth, capacity=None) if capacity_too else truth))

    @rule(name=st.sampled_from([*ENGINES, CLOUD, "unheard of"]), reachable=st.booleans())
    def miss(self, name: str, reachable: bool) -> None:
        self.tell(BackendMissed(name, reachable))

    @rule(name=st.sampled_from([*ENGINES, CLOUD]), seconds=st.floats(0, 20))
    def pause(self, name: str, seconds: float) -> None:
        self.tell(BackendBusy(name, self.now + seconds))

    @rule(name=st.sampled_from(sorted(ENGINES)), blocks=st.sampled_from([30, 50, 120]))
    def restart(self, name: str, blocks: int) -> None:
        self.generation[name] += 1
        self.lingering[name].clear()
        self.blocks[name] = blocks
        self.tell(BackendRead(replace(self.truth(name), used_blocks=0, running=0)))

    @rule(name=st.sampled_from(sorted(ENGINES)))
    def engine_notices_who_left(self, name: str) -> None:
        self.lingering[name].clear()

    @rule(forecast=st.sampled_from(sorted(FORECASTS)))
    def learn(self, forecast: str) -> None:
        self.now += TOKEN_S
        self.tell(Learned(MODEL, FORECASTS[forecast]))

    @rule(name=st.sampled_from([*ENGINES, CLOUD, "unheard of"]))
    def drain_backend(self, name: str) -> None:
        self.drained.add(name)
        self.tell(BackendDraining(name))

    @rule(name=st.sampled_from([*ENGINES, CLOUD, "unheard of"]))
    def resume_backend(self, name: str) -> None:
        self.drained.discard(name)
        self.tell(BackendResumed(name))

    @rule(name=st.sampled_from(sorted(ENGINES)))
    def remove_backend(self, name: str) -> None:
        self.forget(name)
        self.drained.add(name)
        self.tell(BackendRemoved(name))

    @rule(name=st.sampled_from(sorted(ENGINES)), at_once=st.booleans())
    def add_another_of_that_name(self, name: str, at_once: bool) -> None:
        self.forget(name)
        self.drained.discard(name)
        self.tell(BackendAdded(BackendSpec(name)))
        if at_once:
            self.tell(BackendRead(self.truth(name)))

    @rule(per_minute=st.sampled_from([0, 5, 40]))
    def change_backend(self, per_minute: int) -> None:
        limits = BackendLimits(per_minute, 1000 * per_minute)
        self.tell(BackendChanged(BackendSpec(CLOUD, hosted=True, spill_only=True, limits=limits)))

    @rule(
        risk=st.sampled_from([0.001, 0.01, 0.3]),
        queue=st.sampled_from([0, 2, 12]),
        clamp=st.booleans(),
        observe=st.sampled_from([False, False, True]),
    )
    def turn_limits(self, risk: float, queue: int, clamp: bool, observe: bool) -> None:
        self.limits = AdmissionLimits(risk=risk, queue_requests_max=queue, clamp=clamp, observe=observe)
        self.queue_kept = len(self.waiting)
        self.tell(LimitsChanged(self.limits))

    @precondition(lambda self: self.last_id > 30)
    @rule()
    def shut_down(self) -> None:
        self.shut = True
        self.tell(DrainStarted())
        assert not self.waiting

    # What must hold

    @invariant()
    def books_balance(self) -> None:
        """Promises 3, 4 and 5."""
        self.admission.check()
        assert len(self.waiting) <= max(self.limits.queue_requests_max, self.queue_kept)
        snapshot = self.admission.snapshot()
        assert sum(queue.depth for queue in snapshot.queues) == len(self.waiting)
        assert all(backend.headroom_tokens >= 0 <= backend.foreign_tokens for backend in snapshot.backends)
        for account in self.admission._roster.all():
            assert account.standing.breaker._probes.keys() <= self.running.keys()
        due = self.admission.next_timer()
        assert (due is None) == (not self.waiting)
        assert due is None or due > self.now

    def teardown(self) -> None:
        """Promise 8: nobody comes any more, all who run end, telemetry is honest: then all who wait are served."""
        for name in self.lingering:
            self.lingering[name].clear()
        for _ in range(400):
            if not self.waiting:
                break
            for number in list(self.running):
                self.end(number, Outcome.FINISHED)
            for name in ENGINES:
                self.tell(BackendRead(self.truth(name)))
            self.tell(BackendRead(Reading(CLOUD, self.now, frozenset({MODEL}))))
            self.now += 0.5
            self.wake()
        assert not self.waiting, self.waiting

    # Parts

    def tell(self, event: Event) -> None:
        probed = {name for name in ENGINES if self.is_frozen(name)}
        commands = self.admission.handle(event, self.now)
        assert commands == self.twin.handle(event, self.now), "promise 7"
        self.take(commands, probed)

    def wake(self) -> None:
        probed = {name for name in ENGINES if self.is_frozen(name)}
        commands = self.admission.handle_timer(self.now)
        assert commands == self.twin.handle_timer(self.now), "promise 7"
        self.take(commands, probed)

    def take(self, commands: list[Command], probed: set[str]) -> None:
        """Promise 1, then promise 2."""
        for command in commands:
            what = self.waiting.pop(command.ticket_id)
            if isinstance(command, Admit):
                assert command.backend not in what.excluded | self.drained
                account = self.admission._roster.find(command.backend)
                assert account is not None
                assert account.standing.breaker.state is not BreakerState.OPEN
                self.running[what.id] = (command.backend, what, 0)
                assert not self.shut
            else:
                assert isinstance(command, Refuse)
                assert command.refusal.retry_after_s is None or command.refusal.retry_after_s > 0
        if not self.limits.observe:
            self.check_tenants(commands)
            for name in {command.backend for command in commands if isinstance(command, Admit)} - probed - {CLOUD}:
                self.check_peak(self.account(name))

    def check_tenants(self, commands: list[Command]) -> None:
        """Whoever was let in is among as many of its tenant as may run."""
        for command in commands:
            if isinstance(command, Admit):
                what = self.running[command.ticket_id][1]
                running = sum(other.tenant == what.tenant for _, other, _ in self.running.values())
                assert running <= (what.tenant_limits.requests_max or running)

    def check_peak(self, account: EngineAccount) -> None:
        """By its own outlook, whose arithmetic has tests of its own."""
        pool = account.pool
        assert pool is not None
        allowed = account.allowed_blocks(self.now)
        leases = list(pool.leases.values())
        if len(leases) == 1 and not pool.draining:
            assert fit.first_blocks(pool.capacity, leases[0].ticket) <= allowed
            return
        most = sum(lease.blocks_at(lease.ticket.demand.output_tokens_max) for lease in leases)
        if most + pool.draining_blocks <= allowed:
            return
        assert account.memory is not None
        peak = min(most, deepcopy(account.memory.outlook).peak(self.now))
        assert peak + pool.draining_blocks <= allowed

    def forget(self, name: str) -> None:
        """What runs on this engine is of no concern to whatever takes its name."""
        self.lingering[name].clear()
        for number, (backend, what, generated) in self.running.items():
            if backend == name:
                self.running[number] = (GONE, what, generated)

    def account(self, name: str) -> EngineAccount:
        return self.admission._roster.engines[name]

    def is_frozen(self, name: str) -> bool:
        account = self.admission._roster.engines.get(name)
        return account is not None and account.telemetry(self.now) is Telemetry.FROZEN

    def resident(self, name: str, what: Ticket, generated: int) -> int:
        return fit.blocks_at(capacity(self.blocks[name]), what, generated // what.demand.sequences)

    def truth(self, name: str) -> Reading:
        here = [(what, generated) for backend, what, generated in self.running.values() if backend == name]
        used = sum(self.resident(name, what, generated) for what, generated in here) + sum(self.lingering[name])
        return Reading(
            name,
            self.now,
            frozenset({MODEL}),
            str(self.generation[name]),
            capacity(self.blocks[name]),
            used_blocks=min(used, self.blocks[name]),
            running=sum(what.demand.sequences for what, _ in here) + len(self.lingering[name]),
            waiting=0,
            work_done=self.now,
        )


AdmissionMachine.TestCase.settings = settings(stateful_step_count=60, deadline=None)
TestAdmissionMachine = AdmissionMachine.TestCase
