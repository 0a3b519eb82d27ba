"""Several gateways over one pool: whatever happens to them, to the store and to the wire, it is never too full."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings, strategies as st

from gateway.admission.limits import AdmissionLimits
from tests.admission.words import POOL
from tests.shared_ledger.crowd import SETTINGS, Crowd, Faults, Replica, play

pytestmark = pytest.mark.timeout(240)
MANY = 60
PARTS = st.sampled_from([0.0, 0.02, 0.1])
"""Seldom enough that no entry lapses while its gateway lives."""


def burst(crowd: Crowd, replicas: list[Replica], count: int = MANY) -> None:
    """Clients of all sizes, all at once, at these gateways; a few leave before they are answered."""
    chance = crowd.chance
    for _ in range(count):
        leaves_after_s = chance.uniform(0.0, 3.0) if chance.random() < 0.1 else 1e9
        blocks, held_s = chance.choice([2, 5, 10, 20, 45]), chance.uniform(0.1, 2.0)
        chance.choice(replicas).client(blocks, held_s, leaves_after_s=leaves_after_s)


def modes(crowd: Crowd) -> list[str]:
    return [replica.ledger.state().mode for replica in crowd.replicas]


def answered(replicas: list[Replica]) -> int:
    return sum(replica.answered for replica in replicas)


def metric(replica: Replica, name: str, **labels: str) -> float | None:
    return replica.families.registry.get_sample_value(f"kvgate_{name}", labels)


def test_three_gateways_fill_one_pool_and_no_more() -> None:
    async def story() -> None:
        crowd = Crowd(1, Faults())
        replicas = crowd.join(3)
        await asyncio.sleep(0.1)
        assert modes(crowd) == ["degraded"] * 3
        await crowd.settled()
        assert modes(crowd) == ["shared"] * 3
        assert {replica.ledger.state().replicas for replica in replicas} == {3}
        burst(crowd, replicas)
        await crowd.emptied(120)
        assert answered(replicas) == MANY
        assert sum(replica.refused for replica in replicas) == 0
        assert 0.9 * POOL <= crowd.engine.most <= POOL
        calls = sum(replica.store.calls for replica in replicas)
        await asyncio.sleep(10)
        idle = sum(replica.store.calls for replica in replicas) - calls
        assert idle <= 3 * 10 * 5
        await crowd.stop(*replicas)
        assert not crowd.server.lua.entries()

    play(story)


def test_a_gateway_alone_has_the_whole_pool() -> None:
    async def story() -> None:
        crowd = Crowd(2, Faults())
        replicas = crowd.join()
        await crowd.settled()
        replicas[0].client(POOL, 1.0)
        await asyncio.sleep(0.1)
        assert crowd.engine.used == POOL
        await asyncio.sleep(2)
        await crowd.stop(*replicas)

    play(story)


def test_a_large_request_is_not_starved_by_small_ones_elsewhere() -> None:
    async def story() -> None:
        crowd = Crowd(3, Faults())
        replicas = crowd.join(3)
        await crowd.settled()
        for second in range(10):
            for replica in replicas[:2]:
                for _ in range(12):
                    replica.client(10, 0.9)
            if second == 1:
                replicas[2].client(80, 0.5, patience_s=25.0)
            await asyncio.sleep(1.0)
        assert (replicas[2].answered, replicas[2].refused) == (1, 0)
        await crowd.emptied(120)
        assert crowd.engine.most <= POOL
        await crowd.stop(*replicas)

    play(story)


@pytest.mark.parametrize("noticed_after_s", [0.3, 6.0])
def test_what_a_killed_gateway_held_is_not_given_out_while_it_is_in_use(
    noticed_after_s: float,
) -> None:
    """Its entry stands until it lapses; what the engine still holds then is somebody else's."""

    async def story() -> None:
        crowd = Crowd(4, Faults())
        replicas = crowd.join(3)
        await crowd.settled()
        burst(crowd, replicas)
        await asyncio.sleep(1.5)
        killed, rest = replicas[0], replicas[1:]
        assert killed.running
        before = answered(rest)
        dying = asyncio.get_running_loop().create_task(killed.kill(noticed_after_s))
        await dying
        await crowd.emptied(60)
        assert answered(rest) > before
        assert crowd.engine.most <= POOL
        assert crowd.engine.used == 0
        assert modes(crowd)[1:] == ["shared"] * 2
        assert {replica.ledger.state().replicas for replica in rest} == {2}
        lapsed = [metric(replica, "ledger_leases_expired_total", backend="a") for replica in rest]
        assert sorted(lapsed, key=str) == [0.0, 1.0]
        await crowd.stop(*rest)

    play(story)


def test_without_the_store_each_keeps_to_its_part() -> None:
    async def story() -> None:
        crowd = Crowd(5, Faults())
        replicas = crowd.join(3)
        await crowd.settled()
        crowd.faults.is_cut = True
        replicas[0].client(20, 20.0)
        await asyncio.sleep(1.0)
        assert modes(crowd) == ["degraded"] * 3
        assert crowd.engine.used == 0  # what others hold may stand yet
        burst(crowd, replicas[:2], MANY - 1)
        await asyncio.sleep(SETTINGS.ttl_s)
        assert [replica.ledger.state().share for replica in replicas] == [1 / 3] * 3
        assert [metric(replica, "ledger_mode", mode="degraded") for replica in replicas] == [1.0] * 3
        assert [metric(replica, "ledger_store_up") for replica in replicas] == [0.0] * 3
        held = [sum(replica.running.values()) for replica in replicas]
        assert max(held) <= POOL // 3
        assert min(held[:2]) > 0
        crowd.server.restart()
        crowd.faults.is_cut = False
        await asyncio.sleep(SETTINGS.ttl_s + 1)
        assert modes(crowd) == ["shared"] * 3
        await crowd.emptied(120)
        assert answered(replicas) == MANY
        assert crowd.engine.most <= POOL
        await crowd.stop(*replicas)

    play(story)


def test_a_store_that_forgot_everything_is_not_believed_at_once() -> None:
    """Who comes back first must not take the room of those who run on."""

    async def story() -> None:
        crowd = Crowd(6, Faults())
        replicas = crowd.join(3)
        await crowd.settled()
        for replica in replicas:
            replica.client(30, 8.0)
        await asyncio.sleep(1)
        for replica in replicas[1:]:
            replica.store.is_dead = True
        crowd.server.restart()
        replicas[0].client(60, 1.0)
        await asyncio.sleep(1.5)
        assert crowd.engine.used == 90
        assert replicas[0].ledger.state().mode == "degraded"
        for replica in replicas[1:]:
            replica.store.is_dead = False
        await asyncio.sleep(15)
        assert modes(crowd) == ["shared"] * 3
        assert answered(replicas) == 4
        assert crowd.engine.most <= POOL
        await crowd.stop(*replicas)

    play(story)


def test_to_observe_is_to_tell_but_not_to_ask() -> None:
    async def story() -> None:
        crowd = Crowd(7, Faults(), AdmissionLimits(observe=True))
        replicas = crowd.join(2)
        await crowd.settled()
        for replica in replicas:
            replica.client(80, 2.0)
        await asyncio.sleep(1)
        assert crowd.engine.used == 160
        assert len(crowd.server.lua.entries()) == 2
        await asyncio.sleep(5)
        await crowd.stop(*replicas)

    play(story)


@given(seed=st.integers(0, 2**32), lost=PARTS, unanswered=PARTS, late=PARTS, event=st.sampled_from(["", "kill", "cut"]))
@settings(max_examples=12)
def test_the_pool_is_never_too_full_and_nothing_leaks(
    seed: int, lost: float, unanswered: float, late: float, event: str
) -> None:
    """Calls and answers that are lost, or late and out of order; a gateway killed; a store that comes back empty."""

    async def story() -> None:
        crowd = Crowd(seed, Faults(lost, unanswered, late))
        replicas = crowd.join(3)
        await crowd.settled()
        burst(crowd, replicas, 30)
        await asyncio.sleep(crowd.chance.uniform(0.0, 3.0))
        rest, asked = replicas, 30
        if event == "kill":
            rest = replicas[1:]
            await replicas[0].kill(crowd.chance.uniform(0.0, 5.0))
        elif event == "cut":
            crowd.faults.is_cut = True
            await asyncio.sleep(crowd.chance.uniform(0.1, 5.0))
            crowd.server.restart()
            crowd.faults.is_cut = False
        await crowd.emptied(120)
        assert event == "kill" or answered(rest) == asked
        assert crowd.engine.used == 0
        assert crowd.engine.most <= POOL, crowd.engine.most
        crowd.faults.lost = crowd.faults.unanswered = crowd.faults.late = 0.0
        await asyncio.sleep(SETTINGS.ttl_s + 1)  # until the last late call has come, and the dead are forgotten
        await crowd.stop(*rest)
        assert not crowd.server.lua.entries()

    play(story)
