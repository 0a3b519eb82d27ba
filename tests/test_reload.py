"""Reading the configuration anew: all or nothing, one after the other, and by itself when files change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gateway.admission.admission import Admission
from gateway.admission.limits import AdmissionLimits
from gateway.config import Config, ConfigError, load_config
from gateway.config.source import ConfigSource
from gateway.fleet import Fleet
from gateway.gate import Gate
from gateway.reload import WATCH_EVERY_S, Outcome, Reloader, listener_tls, tell_certificate
from tests.certificates import EXPIRED, GOOD, RENEWED
from tests.shell import settle

TREE = "backends: [{name: a, url: 'http://127.0.0.1:9', kind: vllm}]\n"


@dataclass
class Told:
    """What was counted."""

    reloads: list[str | None] = field(default_factory=list)
    certificates: list[tuple[str, float]] = field(default_factory=list)

    def on_reload(self, config_sha256: str | None) -> None:
        self.reloads.append(config_sha256)

    def on_certificate(self, name: str, not_after_unix_s: float) -> None:
        self.certificates.append((name, not_after_unix_s))


@dataclass
class House:
    """A reloader with a fleet that looks at nothing."""

    file: Path
    reloader: Reloader
    told: Told
    adopted: list[Config]

    async def reload(self, text: str) -> Outcome:
        self.file.write_text(text)
        return await self.reloader.outcome()


@asynccontextmanager
async def house(folder: Path, text: str = TREE, *, source: bool = True, serves: bool = True) -> AsyncIterator[House]:
    file = folder / "kvgate.yaml"
    file.write_text(text)
    origin = ConfigSource(file)
    config = await asyncio.to_thread(origin.load)
    fleet = Fleet(Gate(Admission(AdmissionLimits()), asyncio.get_running_loop()))
    for settings in config.backend_settings():
        fleet.add(settings, fleet.build(settings))
    told, adopted = Told(), list[Config]()
    tls = await asyncio.to_thread(listener_tls, config)
    reloader = Reloader(config, origin if source else None, fleet, told, tls, adopted.append)
    async with asyncio.TaskGroup() as group:
        fleet.start(group, Deaf())
        serving = [group.create_task(reloader.serve())] if serves else []
        yield House(file, reloader, told, adopted)
        fleet.stop()
        for task in serving:
            task.cancel()
    await fleet.aclose()


class Deaf:
    """Hears of looks and does nothing."""

    def on_look(self, event: object, duration_s: float) -> None:
        pass

    def on_telemetry_error(self, backend: str, source: str, reason: object, message: str) -> None:
        pass


async def test_what_is_good_takes_effect(tmp_path: Path) -> None:
    """And is told by the fingerprint that replicas compare."""
    async with house(tmp_path) as built:
        outcome = await built.reload(TREE + "drain_max_s: 9\nlog: {format: json}\n")
        (config,) = built.adopted
        assert (config.drain_max_s, config.log.format) == (9, "auto")
        assert built.reloader.config is config
        assert built.told.reloads == [config.fingerprint()] == [outcome.fingerprint]
        assert (outcome.changed, outcome.restart) == (("drain_max_s",), ("log.format",))
        assert outcome.plain["reloaded"] is True


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("backends: []\n", ["backends"]),
        (TREE + "x: 1\ny: 2\n", ["x", "y"]),
        (TREE.replace("kind: vllm", "kv: {model_config: /no/such}"), ["backends.0.kv.model_config"]),
        (TREE + "listen: {tls: {certificate: /no/such, key: /no}}\ny: 2\n", ["y"]),
    ],
)
async def test_what_is_bad_changes_nothing(text: str, paths: list[str], tmp_path: Path) -> None:
    """Every fault is told and logged with its path."""
    async with house(tmp_path) as built:
        before = built.reloader.config
        with capture_logs() as lines:
            outcome = await built.reload(text)
        assert [fault.path for fault in outcome.faults] == paths
        assert [line["path"] for line in lines if line["event"] == "config_fault"] == paths
        assert outcome.plain["reloaded"] is False
        assert (built.reloader.config, built.adopted, built.told.reloads) == (before, [], [None])
        assert built.reloader.fleet.configured == {"a"}


async def test_a_configuration_from_nowhere_cannot_be_read_again(tmp_path: Path) -> None:
    async with house(tmp_path, source=False) as built:
        (fault,) = (await built.reload(TREE)).faults
        assert "came from nowhere" in fault.message


async def test_who_asks_together_is_answered_together(tmp_path: Path) -> None:
    """By one reload; who gives up does not take the answer from the others."""
    async with house(tmp_path) as built:
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(built.reloader.outcome()) for _ in range(5)]
            await settle(1)
            asked[0].cancel()
        assert len({id(task.result()) for task in asked[1:]}) == 1
        assert len(built.told.reloads) == 1
        built.reloader.ask()
        await built.reloader.outcome()
        assert len(built.told.reloads) >= 2


async def test_files_are_watched_only_if_that_is_wanted(tmp_path: Path) -> None:
    """A file that has changed is read once it has stayed as it is for a while."""
    turns, slept = asyncio.Queue[None](), asyncio.Queue[float]()

    async def sleep(seconds: float) -> None:
        slept.put_nowait(seconds)
        await turns.get()

    async with house(tmp_path, TREE + "watch: true\n", serves=False) as built, asyncio.TaskGroup() as group:

        async def asks(text: str | None = None) -> bool:
            """Whether a reload is asked for at the next look at the file."""
            if text is not None:
                built.file.write_text(text)
            turns.put_nowait(None)
            assert await slept.get() == WATCH_EVERY_S
            is_asked = built.reloader._wake.is_set()
            built.reloader._wake.clear()
            return is_asked

        watching = group.create_task(built.reloader.watch(sleep))
        await slept.get()
        assert not await asks()
        assert not await asks(TREE + "watch: true\ndrain_max_s: 5\n")
        assert not await asks(TREE + "watch: true\ndrain_max_s: 66\n")
        assert await asks()
        assert not await asks()
        built.reloader.config = built.reloader.config.model_copy(update={"watch": False})
        assert not any([await asks(), await asks(TREE), await asks()])
        watching.cancel()


async def test_a_renewed_certificate_is_taken_up(tmp_path: Path) -> None:
    """Told as a change although its file has the same name; a bad one leaves the old one."""
    text = TREE + f"listen: {{tls: {GOOD.write(tmp_path)}}}\n"
    async with house(tmp_path, text) as built:
        tls = built.reloader.certificates["tls"]
        assert (await built.reload(text)).changed == ()
        RENEWED.write(tmp_path)
        outcome = await built.reload(text)
        assert outcome.changed == ("listen.tls",)
        assert tls.not_after_unix_s == RENEWED.not_after_unix_s
        assert built.told.certificates[-1] == ("api", RENEWED.not_after_unix_s)
        (tmp_path / "key.pem").write_text(GOOD.key)
        (fault,) = (await built.reload(text)).faults
        assert fault.path == "listen.tls.key"
        assert tls.not_after_unix_s == RENEWED.not_after_unix_s


def test_every_fault_of_every_certificate_is_told(tmp_path: Path) -> None:
    listen = {"tls": {"certificate": "/no/c", "key": "/no/k"}, "admin_tls": {"certificate": "/no/c", "key": "/no/k"}}
    with pytest.raises(ConfigError) as caught:
        listener_tls(load_config(overrides={"listen": listen}, environ={}))
    assert [fault.path for fault in caught.value.faults] == ["listen.tls.certificate", "listen.admin_tls.certificate"]


def test_an_expired_certificate_is_a_warning(tmp_path: Path) -> None:
    """It is served all the same."""
    config = load_config(overrides={"listen": {"admin_tls": EXPIRED.write(tmp_path)}}, environ={})
    told = Told()
    with capture_logs() as lines:
        for key, tls in listener_tls(config).items():
            tell_certificate(told, key, tls)
    assert told.certificates == [("admin", EXPIRED.not_after_unix_s)]
    assert [(line["event"], line["key"], line["log_level"]) for line in lines] == [
        ("certificate_expired", "listen.admin_tls", "warning")
    ]
