"""The policies of a replay by name, and how a run is put together from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence as Many
from dataclasses import dataclass, field, replace

from gateway.admission.limits import AdmissionLimits
from gateway.simulation.engine import EngineConfig
from gateway.simulation.fronts import Front, QueueFront, Rule, always, below_threshold, fewer_than, within_reservation
from gateway.simulation.gateway_front import GatewayFront, GatewaySetting
from gateway.simulation.record import Record
from gateway.simulation.replica import Replica
from gateway.simulation.slo import Slo
from gateway.simulation.workload import Request
from gateway.simulation.world import World

NAMES = ("kvgate", "none", "concurrency:N", "max-tokens", "kv-threshold", "oracle")


@dataclass(frozen=True, slots=True)
class Setup:
    """All that a run depends on beside its requests and its policy."""

    config: EngineConfig
    slo: Slo
    replicas: int = 1
    gateways: int = 1
    """KVGates that share the replicas and see of each other only what the engines show. Other policies have one."""
    seed: int = 0
    limits: AdmissionLimits = field(default_factory=AdmissionLimits)
    read_every_s: float = 0.5
    progress_every_s: float = 0.02
    prompt_error: float | None = None
    kv_share: float = 1.0

    def gateway(self) -> GatewaySetting:
        """What of it concerns KVGate."""
        return GatewaySetting(
            self.slo,
            self.limits,
            prompt_error=self.prompt_error,
            read_every_s=self.read_every_s,
            progress_every_s=self.progress_every_s,
            kv_share=self.kv_share,
            seed=self.seed,
        )


MakeFronts = Callable[[Setup, Many[Replica], Many[Request], Record], list[Front]]


@dataclass(frozen=True, slots=True)
class Policy:
    """Something that decides what is sent where."""

    name: str
    fronts: MakeFronts


def policy_named(name: str) -> Policy:
    """The policy of that name.

    Raises:
        ValueError: if there is none; the message is one sentence.
    """
    kind, colon, number = name.partition(":")
    if kind == "concurrency" and number.isdecimal() and int(number) >= 1:
        return Policy(name, _queue(fewer_than(int(number))))
    if colon or kind not in _POLICIES:
        raise ValueError(f"{name!r} is none of {', '.join(NAMES)}, with N from 1 on.")
    return Policy(name, _POLICIES[kind])


def run(
    policy: Policy, setup: Setup, requests: Many[Request], on_settled: Callable[[int], None] | None = None
) -> Record:
    """Replay the requests, which are in the order of their arrival, and say what happened."""
    replicas = [Replica(f"engine-{index + 1}", setup.config) for index in range(setup.replicas)]
    record = Record.of(len(requests))
    fronts = policy.fronts(setup, replicas, requests, record)
    World(requests, replicas, fronts, record, on_settled).run()
    return record


def _queue(rule: Rule, *, patient: bool = False) -> MakeFronts:
    def fronts(setup: Setup, replicas: Many[Replica], requests: Many[Request], record: Record) -> list[Front]:
        patience = None if patient else setup.slo
        return [QueueFront(rule, replicas, requests, record, patience)]

    return fronts


def _kvgate(setup: Setup, replicas: Many[Replica], requests: Many[Request], record: Record) -> list[Front]:
    setting = setup.gateway()
    return [
        GatewayFront(replace(setting, phase=index / setup.gateways), replicas, requests, record)
        for index in range(setup.gateways)
    ]


def _oracle(setup: Setup, replicas: Many[Replica], requests: Many[Request], record: Record) -> list[Front]:
    return [GatewayFront(replace(setup.gateway(), knows_lengths=True), replicas, requests, record)]


_POLICIES: dict[str, MakeFronts] = {
    "kvgate": _kvgate,
    "none": _queue(always, patient=True),
    "max-tokens": _queue(within_reservation),
    "kv-threshold": _queue(below_threshold),
    "oracle": _oracle,
}
