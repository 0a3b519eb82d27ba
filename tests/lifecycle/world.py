"""One run: the real gateway from relay to wire in virtual time, with engines, clients and an operator around it."""

from __future__ import annotations

import asyncio
import os
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace

from gateway.admission.admission import Admission
from gateway.admission.events import BackendMissed, BackendRead, LimitsChanged
from gateway.admission.limits import AdmissionLimits
from gateway.backends.backend import BackendSettings, Fault
from gateway.backends.upstream import UpstreamTimeouts
from gateway.domain import BackendLimits
from gateway.fleet import Fleet
from gateway.gate import Gate
from gateway.pricing import Pricing
from gateway.relay import Relay, RelaySettings
from gateway.reporting.metrics import Metrics
from gateway.reporting.record import RequestRecord
from gateway.telemetry.poller import LookEvent
from gateway.tokens import TokenCounters
from tests.lifecycle.books import Auditor
from tests.lifecycle.engines import MODEL, Network, Server
from tests.lifecycle.job import Fates
from tests.lifecycle.plan import ENGINES, PROVIDER, Happening, Plan
from tests.lifecycle.virtual_loop import START_S, VirtualLoop
from tests.lifecycle.visitor import Visitor

TIMEOUTS = UpstreamTimeouts(connect_s=2.0, head_s=20.0, idle_s=5.0)
QUEUE_WAIT_MAX_S = 5.0
LOOK_INTERVAL_S = 1.0
TICK_S = 1.0
VISITS_MAX_S = 300.0
"""After the last arrival everybody has an answer by then: waits, timeouts and a client that takes nothing add up."""
LIFE_MAX_S = 1_000.0
"""Virtual seconds of a whole run."""
CANCEL_MAX_S = 0.01
"""From the end of a request to the end of its connection at the engine."""
QUIET_S = 45.0
"""Until every drain must have settled: the longest haunting, `drain_max_s`, and looks in between."""
ELSEWHERE = "2"
"""Added to a backend's host: where its URL points after a reload."""
TRACE_KEPT = 60


@dataclass(slots=True)
class Result:
    """What came of a run."""

    plan: Plan
    problem: str = ""
    events: int = 0
    answers: Counter[int] = field(default_factory=Counter)
    """By status; 499 for clients that left."""
    struck: Counter[str] = field(default_factory=Counter)
    """Faults that came to pass."""
    trace: tuple[str, ...] = ()
    """The last events before the end."""


def play(plan: Plan) -> Result:
    """Run a plan to its end, or to the first thing that is wrong."""
    silent, other = os.pipe()
    world = World(plan, silent)
    try:
        with asyncio.Runner(loop_factory=world.new_loop) as runner:
            world.problem = runner.run(world.live()) or world.problem
    except TimeoutError:
        world.fail("the gateway does not come to an end")
    except ExceptionGroup as errors:
        world.fail(repr(errors.exceptions[0]))
    finally:
        os.close(silent)
        os.close(other)
    return world.result()


class World:
    """Everything there is in one run."""

    def __init__(self, plan: Plan, always_silent_fd: int) -> None:
        self.plan = plan
        self.problem = ""
        self._over = asyncio.Event()
        self._events = 0
        self._trace: deque[tuple[float, str, object]] = deque(maxlen=TRACE_KEPT)
        self._records: dict[str, list[RequestRecord]] = {}
        self._struck: Counter[str] = Counter()
        self._visitors = {script.name: Visitor(script, self.note) for script in plan.scripts}
        scripts = {script.name: script for script in plan.scripts}
        self._fates = Fates(scripts, self.note, lambda name: self._visitors[name].reached("asked"))
        self._network = Network(self._fates, always_silent_fd, lambda name: self._visitors[name].reached("connecting"))
        self._loop: VirtualLoop | None = None

    # What others tell

    def new_loop(self) -> asyncio.AbstractEventLoop:
        self._loop = VirtualLoop(self._connect)
        self._loop.set_exception_handler(self._lost_exception)
        return self._loop

    def note(self, kind: str, detail: object) -> None:
        """Something happened."""
        self._events += 1
        if kind == "struck" and isinstance(detail, tuple):
            self._struck[detail[1]] += 1
        if kind == "BackendRead" and [shown for _, shown, _ in list(self._trace)[-2:]] == [kind, kind]:
            self._trace.pop()  # In a quiet hour there is nothing else to see.
        self._trace.append((self._loop.time() if self._loop is not None else 0.0, kind, detail))

    def fail(self, problem: str) -> None:
        """Something is wrong; the first word counts."""
        self.problem = self.problem or problem
        self._over.set()

    def result(self) -> Result:
        trace = tuple(f"{at - START_S:9.4f} {kind:<14} {detail}" for at, kind, detail in self._trace)
        codes = Counter(record.code for records in self._records.values() for record in records)
        return Result(self.plan, self.problem, self._events, codes, self._struck, trace)

    def _connect(
        self, factory: Callable[[], asyncio.Protocol], host: str
    ) -> Awaitable[tuple[asyncio.Transport, asyncio.Protocol]]:
        return self._network.connect(factory, host)

    def _lost_exception(self, loop: asyncio.AbstractEventLoop, context: Mapping[str, object]) -> None:
        self.fail(f"{context.get('message')}: {context.get('exception')!r}")

    # The run

    async def live(self) -> str:
        """Returns what is wrong."""
        house = House(self, self._network.servers, self._auditor_of)
        house.open(self._network, self._fates)
        try:
            async with asyncio.timeout(LIFE_MAX_S), asyncio.TaskGroup() as group:
                await self._visits(house, group)
                house.fleet.stop()
            await house.fleet.aclose()
        finally:
            house.tokens.close()
        await asyncio.sleep(1.0)
        if not self.problem:
            self._look_for_leaks(house)
        return self.problem

    def _auditor_of(self, admission: Admission, servers: Mapping[str, Server]) -> Auditor:
        return Auditor(
            admission,
            servers if self.plan.is_honest else {},
            self._fates,
            self.note,
            lambda name, waits: self._visitors[name].reached("queued") if waits else None,
            lambda name, granted: self._visitors[name].reached("granted" if granted else "turned_away"),
            self.fail,
        )

    async def _visits(self, house: House, group: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        house.fleet.start(group, house)
        await asyncio.gather(*(first.wait() for first in house.fleet.first_looks.values()))
        background = [
            group.create_task(house.tick()),
            group.create_task(house.operate(self.plan.happenings), name="operator"),
        ]
        started = loop.time()
        visits: list[asyncio.Task[None]] = []
        for script in self.plan.scripts:
            await asyncio.sleep(max(0.0, started + script.at_s - loop.time()))
            visitor = self._visitors[script.name]
            visitor.task = loop.create_task(visitor.visit(house.relay), name=script.name)
            visitor.task.add_done_callback(self._expect_silence)
            visits.append(visitor.task)
            if self.problem:
                break
        await self._all_answered(visits)
        if not self.problem:
            self._judge_answers()
        if not self.problem:
            house.heal()
            await self._unless_over(asyncio.sleep(QUIET_S))
        if not self.problem:
            self._judge_books(house)
        for task in background:
            task.cancel()

    async def _all_answered(self, visits: list[asyncio.Task[None]]) -> None:
        over = asyncio.get_running_loop().create_task(self._over.wait())
        everybody = asyncio.gather(*visits, return_exceptions=True)
        await asyncio.wait((over, everybody), timeout=VISITS_MAX_S, return_when=asyncio.FIRST_COMPLETED)
        over.cancel()
        for task in visits:
            if not task.done():
                self.fail(f"{task.get_name()} was never answered")
                task.cancel()
            elif not task.cancelled() and (error := task.exception()) is not None:
                self.fail(f"{task.get_name()}: {error!r}")
        await everybody

    async def _unless_over(self, wait: Awaitable[object]) -> None:
        over = asyncio.get_running_loop().create_task(self._over.wait())
        waiting = asyncio.ensure_future(wait)  # noqa: TID251  # owned by the lines below
        await asyncio.wait((over, waiting), return_when=asyncio.FIRST_COMPLETED)
        over.cancel()
        waiting.cancel()

    def _expect_silence(self, task: asyncio.Task[None]) -> None:
        """Whoever has gone is worked for no more, but for an engine that does not listen."""
        asyncio.get_running_loop().call_later(CANCEL_MAX_S, self._check_silence, task.get_name())

    def _check_silence(self, name: str) -> None:
        if any(job.is_alive and not job.hears_nobody for job in self._fates.asked.get(name, ())):
            self.fail(f"{name} has gone, and its engine does not know")

    def _judge_answers(self) -> None:
        """Whether every client was told one thing, and its record says the same."""
        for name, visitor in self._visitors.items():
            records, outputs = self._records.get(name, ()), self._fates.outputs.get(name, ())
            if wrong := visitor.verdict(records, outputs, len(self._fates.asked.get(name, ()))):
                self.fail(f"{visitor}: {wrong}")

    def _judge_books(self, house: House) -> None:
        """Whether books are empty and counters agree with what clients were told."""
        if leaks := house.auditor.leaks(house.gate):
            self.fail(f"left over: {', '.join(leaks)}")
        if house.pricing._following:
            self.fail(f"{len(house.pricing._following)} answers are still followed")
        # Series of a backend that has gone for good go with it.
        keeps_all = not any(happening.act == "remove" for happening in self.plan.happenings)
        if keeps_all and (differs := house.miscounted(self._records)):
            self.fail(differs)

    def _look_for_leaks(self, house: House) -> None:
        for server in self._network.servers.values():
            if server.callers or server.jobs or server.engine.used_blocks:
                self.fail(f"{server.name} still has {[*server.callers]}, {len(server.jobs)} jobs")
        if tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            self.fail(f"tasks are left: {tasks}")

    def record(self, record: RequestRecord) -> None:
        """A request has ended, says the gateway."""
        self._records.setdefault(record.request_id, []).append(record)


class House:
    """The gateway, as `app` puts it together, but for its sockets."""

    def __init__(
        self,
        world: World,
        servers: dict[str, Server],
        auditor_of: Callable[[Admission, Mapping[str, Server]], Auditor],
    ) -> None:
        self._world, self._servers = world, servers
        plan = world.plan
        self._limits = AdmissionLimits(
            risk=plan.risk, queue_requests_max=plan.queue_requests_max, clamp=plan.clamp, observe=plan.observe
        )
        admission = Admission(self._limits)
        self.auditor = auditor_of(admission, servers)
        self.metrics = Metrics([MODEL], version="0", config_sha256="0", exceed_ratio_target=0.01)
        self.gate = Gate(admission, asyncio.get_running_loop(), [self.metrics, self.auditor])
        self.pricing = Pricing(self.gate.learned)
        self.tokens = TokenCounters({})
        self.fleet = Fleet(self.gate, LOOK_INTERVAL_S)
        settings = RelaySettings(QUEUE_WAIT_MAX_S, plan.risk)
        self.relay = Relay(self.gate, self.fleet.backends, self.pricing, self.tokens, settings, self._on_record)

    def open(self, network: Network, fates: Fates) -> None:
        """Put engines behind host names, and backends in front of them."""
        plan, loop = self._world.plan, asyncio.get_running_loop()
        sizes = dict(zip(ENGINES, plan.blocks, strict=True)) | ({PROVIDER: 400} if plan.provider else {})
        for name, blocks in sizes.items():
            for host in (name, name + ELSEWHERE):
                network.servers[host] = Server(host, blocks, loop, fates)
            settings = self._settings(name)
            self.fleet.add(settings, self.fleet.build(settings))

    def heal(self) -> None:
        """From now on everything works."""
        for server in self._servers.values():
            server.page = "honest"
        for name in ENGINES:
            self.fleet.resume(name)

    async def tick(self) -> None:
        """What the gateway does each second."""
        while True:
            self.pricing.refresh(asyncio.get_running_loop().time())
            snapshot = self.gate.snapshot()
            if any(backend.headroom_tokens < 0 or backend.foreign_tokens < 0 for backend in snapshot.backends):
                self._world.fail(f"negative: {snapshot}")
            self.metrics.refresh(snapshot, {name: backend.kind for name, backend in self.fleet.backends.items()})
            await asyncio.sleep(TICK_S)

    async def operate(self, happenings: tuple[Happening, ...]) -> None:
        """Do what the plan says to engines and to the gateway, one after the other."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        for happening in happenings:
            await asyncio.sleep(max(0.0, started + happening.at_s - loop.time()))
            self._world.note("happens", happening)
            await self._happen(happening)

    async def _happen(self, happening: Happening) -> None:
        name, value = happening.backend, happening.value
        server = self._servers.get(name)
        match happening.act:
            case "restart" if server is not None:
                server.restart(value, server.engine.config.blocks + (20 if value == 2.0 else 0))
            case "freeze" if server is not None:
                server.freeze(value)
            case "stranger" if server is not None:
                server.stranger()
            case "telemetry" if server is not None:
                server.page = happening.page
            case "drain":
                self.fleet.drain(name)
            case "resume":
                self.fleet.resume(name)
            case "busy":
                self.gate.busy(name, value)
            case "limits":
                self._limits = replace(self._limits, queue_requests_max=int(value), risk=0.01 + value / 100)
                self.gate.hear(LimitsChanged(self._limits))
            case "shut_down":
                self.gate.start_drain()
            case _:
                await self._reload(happening)

    async def _reload(self, happening: Happening) -> None:
        name, fleet = happening.backend, self.fleet
        wanted = {known: fleet.settings[known] for known in sorted(fleet.configured)}
        built = {}
        if happening.act == "remove":
            wanted.pop(name, None)
        elif happening.act == "change" or name not in wanted:
            host = name + (ELSEWHERE if happening.value == 8.0 else "")
            wanted[name] = replace(self._settings(name, host), timeouts=replace(TIMEOUTS, idle_s=4.0))
            built[name] = fleet.build(wanted[name])
            self._servers[host].hidden_tokens = 200 if happening.value == 2.0 else 0
        await fleet.change(tuple(wanted.values()), built, LOOK_INTERVAL_S)

    # What the gateway says

    def on_look(self, event: LookEvent, duration_s: float) -> None:
        """As `app` has it."""
        self.gate.hear(event)
        if isinstance(event, BackendRead | BackendMissed):
            name = event.reading.backend if isinstance(event, BackendRead) else event.backend
            if (first := self.fleet.first_looks.get(name)) is not None:
                first.set()

    def on_telemetry_error(self, backend: str, source: str, reason: Fault, message: str) -> None:
        self.metrics.on_read_failed(backend, source, reason.value)

    def miscounted(self, records: Mapping[str, list[RequestRecord]]) -> str:
        """How counters differ from what clients were told."""
        counted: Counter[str] = Counter()
        for family in self.metrics._families.registry.collect():
            for sample in family.samples:
                if sample.name == "kvgate_requests_total":
                    counted[sample.labels["code"]] += int(sample.value)
        told = Counter(str(record.code) for found in records.values() for record in found)
        return "" if counted == told else f"counted {counted}, told {told}"

    def _on_record(self, record: RequestRecord) -> None:
        self.metrics.on_request(record)
        self._world.record(record)

    def _settings(self, name: str, host: str = "") -> BackendSettings:
        url = f"http://{host or name}"
        if name == PROVIDER:
            limits = BackendLimits(60, 20_000)
            return BackendSettings(name, url, kind="openai", spill_only=True, limits=limits, timeouts=TIMEOUTS)
        return BackendSettings(name, url, kind="vllm", timeouts=TIMEOUTS)
