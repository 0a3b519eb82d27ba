"""How the ledger is configured, and what is said where it cannot be opened."""

from __future__ import annotations

import sys

import pytest

from gateway.admission.admission import Admission
from gateway.admission.limits import AdmissionLimits
from gateway.config import ConfigError, load_config
from gateway.gate import Gate
from gateway.reporting.ledger import LedgerMetrics
from gateway.reporting.registry import Families
from gateway.shared_ledger.claims import LedgerSettings
from gateway.shared_ledger.sharing import StoreLibraryError, open_ledger
from tests.shell import HandClock


def configured(ledger: object, **environ: str) -> LedgerSettings | None:
    return load_config(overrides={"ledger": ledger}, environ=environ).ledger.settings()


def test_there_is_none_unless_one_is_named() -> None:
    assert load_config(environ={}).ledger.settings() is None


def test_a_url_is_enough() -> None:
    expected = LedgerSettings("redis://store:6379/2")
    assert configured("redis://store:6379/2") == expected
    assert load_config(environ={"KVGATE_LEDGER": "redis://store:6379/2"}).ledger.settings() == expected


def test_all_that_can_be_turned() -> None:
    given = {"url": "rediss://me@store", "password": "env:P", "prefix": "team-a", "replicas_max": 4, "ttl_s": 2}
    assert configured(given, P="secret") == LedgerSettings("rediss://me@store", "secret", "team-a", 4, 2.0)


def test_the_password_is_never_shown() -> None:
    config = load_config(overrides={"ledger": {"url": "redis://h", "password": "env:P"}}, environ={"P": "secret"})
    assert "secret" not in str(config.shown())


@pytest.mark.parametrize(
    ("ledger", "message"),
    [
        ("http://store", "must begin with redis://"),
        ("redis://:secret@store", "use ledger.password"),
        ("redis://store?password=secret", "use ledger.password"),
        ("redis://", "must name a host"),
        ({"url": "redis://store", "ttl_s": 0.1}, "greater than or equal to 1"),
        ({"url": "redis://store", "prefix": "}{"}, "must be 1 to 63 characters"),
    ],
)
def test_what_cannot_be_meant_is_refused(ledger: object, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        configured(ledger)
    assert message in str(refused.value)
    assert "secret" not in str(refused.value)


async def test_without_its_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "gateway.shared_ledger.redis_store", raising=False)
    monkeypatch.setitem(sys.modules, "redis", None)
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    gate = Gate(Admission(AdmissionLimits()), HandClock().loop)
    with pytest.raises(StoreLibraryError, match=r"pip install 'kvgate\[redis\]'"):
        open_ledger(LedgerSettings("redis://store"), gate, LedgerMetrics(Families(), "degraded"))
    assert gate.sharing is None
