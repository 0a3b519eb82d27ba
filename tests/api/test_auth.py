"""Keys open the gateway for their tenants alone, and are never kept."""

from __future__ import annotations

import gc
import hmac

import pytest

from gateway.api.auth import KeyRing, TenantKeys, key_hash, requested_priority
from gateway.domain import Priority
from gateway.errors import ApiError
from gateway.request import ANONYMOUS, Tenant

TEAM_A = Tenant("team-a", Priority.INTERACTIVE, 0.5)
TEAM_B = Tenant("team-b", Priority.BATCH, 0.2)
RING = KeyRing(
    [TenantKeys(TEAM_A, (key_hash("sk-a1"), key_hash("sk-a2"))), TenantKeys(TEAM_B, (key_hash("sk-b"),))],
)


@pytest.mark.parametrize(
    ("header", "tenant"),
    [("Bearer sk-a1", TEAM_A), ("bearer sk-a2", TEAM_A), ("BEARER  sk-b ", TEAM_B)],
)
def test_a_key_opens_for_its_tenant(header: str, tenant: Tenant) -> None:
    """The scheme's case and stray spaces do not matter."""
    assert RING.tenant_for(header) is tenant


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "sk-a1",
        "Basic sk-a1",
        "Bearer sk-A1",
        "Bearer sk-a1x",
        "Bearer sk-a1,sk-b",
        "Bearer \udcff",
    ],
)
def test_everything_else_gets_one_and_the_same_answer(header: str | None) -> None:
    """Missing, malformed and wrong keys cannot be told apart."""
    with pytest.raises(ApiError) as caught:
        RING.tenant_for(header)
    error = caught.value
    assert (error.status, error.code, error.param, error.should_retry) == (401, "invalid_api_key", None, False)
    assert error.message == "The API key is missing or wrong. Send it as 'Authorization: Bearer KEY'."


def test_without_tenants_everybody_is_anonymous() -> None:
    """Whatever key a client was told to send."""
    assert KeyRing().tenant_for(None) is ANONYMOUS
    assert KeyRing([]).tenant_for("Bearer x") is ANONYMOUS


def test_tenants_without_keys_do_not_open_the_gateway() -> None:
    """A list of tenants means that a key is needed, even if nobody has one."""
    with pytest.raises(ApiError):
        KeyRing([TenantKeys(TEAM_A, ())]).tenant_for("Bearer ")


def test_every_key_is_compared_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The work is the same for the first key, the last and an unknown one; only what was found good is known again."""
    ring = KeyRing(
        [TenantKeys(TEAM_A, (key_hash("sk-a1"), key_hash("sk-a2"))), TenantKeys(TEAM_B, (key_hash("sk-b"),))]
    )
    compared: list[bytes] = []

    def compare(known: bytes, given: bytes) -> bool:
        compared.append(known)
        return known == given

    monkeypatch.setattr(hmac, "compare_digest", compare)
    for key in ("sk-a1", "sk-b"):
        ring.tenant_for(f"Bearer {key}")
    for _ in range(2):
        with pytest.raises(ApiError):
            ring.tenant_for("Bearer sk-c")
    assert len(compared) == 12
    assert ring.tenant_for("Bearer sk-b") is TEAM_B
    assert len(compared) == 12


def test_two_tenants_cannot_share_a_key() -> None:
    """It would not be clear whose share a request takes."""
    with pytest.raises(ValueError, match="share a key"):
        KeyRing([TenantKeys(TEAM_A, (key_hash("k"),)), TenantKeys(TEAM_B, (key_hash("k"),))])


def test_keys_are_not_kept() -> None:
    """Only their hashes can be reached from the ring."""
    reachable: list[object] = [RING]
    for held in reachable:
        reachable += [item for item in gc.get_referents(held) if isinstance(item, tuple | dict | bytes | str)]
    assert not any(isinstance(held, str | bytes) and "sk-" in str(held) for held in reachable)
    assert key_hash("sk-a1") in reachable


@pytest.mark.parametrize(
    ("header", "tenant", "priority"),
    [
        (None, TEAM_A, Priority.INTERACTIVE),
        (None, TEAM_B, Priority.BATCH),
        ("batch", TEAM_A, Priority.BATCH),
        (" Standard ", TEAM_A, Priority.STANDARD),
        ("batch", TEAM_B, Priority.BATCH),
    ],
)
def test_a_priority_may_be_named_up_to_the_ceiling(header: str | None, tenant: Tenant, priority: Priority) -> None:
    """Without a name it is the tenant's own."""
    assert requested_priority(header, tenant) is priority


@pytest.mark.parametrize(("header", "tenant"), [("", TEAM_A), ("0", TEAM_A), ("urgent", TEAM_A), ("standard", TEAM_B)])
def test_other_priorities_are_refused(header: str, tenant: Tenant) -> None:
    """Unknown ones, and those above what the key allows."""
    with pytest.raises(ApiError) as caught:
        requested_priority(header, tenant)
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, "invalid_value", "x-kvgate-priority")
