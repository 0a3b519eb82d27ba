"""A gateway among things that fail: it says so, clearly, and goes on serving."""

from __future__ import annotations

import asyncio
import io
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from structlog.testing import capture_logs

from gateway.app import run
from gateway.config import ConfigError, load_config
from gateway.config.source import ConfigSource
from gateway.simulation.server import RunningEngine, start_engine
from gateway.telemetry.nvml import Nvml, NvmlLibrary
from tests.certificates import EXPIRED, GOOD, RENEWED, Pair
from tests.e2e.stand import SMALL, eventually, gateway, logs_into


@pytest.fixture
async def engine() -> AsyncIterator[RunningEngine]:
    async with start_engine(SMALL) as running:
        yield running


@pytest.fixture(autouse=True)
def _pages_are_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.admin.routes.RENDER_EVERY_S", 0.0)


async def test_a_full_disk(engine: RunningEngine, tmp_path: Path) -> None:
    """Of the journal and of what was learned: each is told once, requests are answered."""
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no disk that is always full")
    state = {"path": str(tmp_path / "no" / "folder"), "save_every_s": 1}
    with capture_logs() as lines:
        async with gateway(engine.url, journal={"path": str(full)}, state=state) as stand:
            for _ in range(3):
                assert (await stand.complete(max_tokens=3)).status == 200
    told = {line["event"]: line for line in lines if line["log_level"] in ("warning", "error")}
    assert told["journal_entries_lost"]["reason"] == "No space left on device"
    assert any("no/folder" in str(line) for line in told.values())


async def test_no_gpu(engine: RunningEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its telemetry is off, and why; memory and requests are looked after all the same."""

    def load() -> NvmlLibrary:
        raise ImportError

    monkeypatch.setattr("gateway.app.Nvml", lambda: Nvml(load))
    with capture_logs() as lines:
        async with gateway({"name": "a", "url": engine.url, "gpus": [0, 1000]}) as stand:
            await eventually(lambda: any(line["event"] == "gpu_telemetry_off" for line in lines))
            assert (await stand.complete(max_tokens=3)).status == 200
            assert (await stand.admin("/metrics")).status == 200
    (off,) = [line for line in lines if line["event"] == "gpu_telemetry_off"]
    assert (off["log_level"], off["reason"]) == ("warning", "NVML is not installed (ImportError)")


def trusting(pair: Pair) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=pair.certificate)


async def test_both_listeners_speak_tls(engine: RunningEngine, tmp_path: Path) -> None:
    """With a certificate each, which a reload renews; plain HTTP gets nothing but an end."""
    (tmp_path / "admin").mkdir()
    listen = {
        "port": 0,
        "admin_port": 0,
        "tls": GOOD.write(tmp_path),
        "admin_tls": RENEWED.write(tmp_path / "admin"),
    }
    source = ConfigSource(overrides={"listen": listen, "backends": [{"name": "a", "url": engine.url}]})
    config = await asyncio.to_thread(source.load)
    body = {"model": "m", "prompt": "x", "max_tokens": 3}
    async with run(config, logs_into(io.StringIO()), source=source) as running, aiohttp.ClientSession() as http:
        assert (running.api_url[:5], running.admin_url[:5]) == ("https", "https")
        await asyncio.wait_for(running.first_looks["a"].wait(), 8)

        async def ask(trusted: Pair) -> int:
            url = f"{running.api_url}/v1/completions"
            async with http.post(url, json=body, ssl=trusting(trusted), headers={"connection": "close"}) as answer:
                return answer.status

        assert await ask(GOOD) == 200
        RENEWED.write(tmp_path)
        async with http.post(f"{running.admin_url}/-/reload", ssl=trusting(RENEWED)) as answer:
            assert (await answer.json())["changed"] == ["listen.tls"]
        assert await ask(RENEWED) == 200
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await ask(GOOD)
        async with http.get(f"{running.admin_url}/metrics", ssl=trusting(RENEWED)) as answer:
            shown = [line for line in (await answer.text()).splitlines() if "tls_certificate_not_after" in line]
        assert float(shown[-1].rpartition(" ")[2]) == RENEWED.not_after_unix_s
        assert len([line for line in shown if line[0] != "#"]) == 2
        with pytest.raises(aiohttp.ClientError):
            await http.get(running.api_url.replace("https", "http"))


async def test_an_expired_certificate(engine: RunningEngine, tmp_path: Path) -> None:
    """It is a warning at the start and in the metric; whoever does not mind is served."""
    listen = {"port": 0, "admin_port": 0, "tls": EXPIRED.write(tmp_path)}
    config = load_config(overrides={"listen": listen, "backends": [{"name": "a", "url": engine.url}]}, environ={})
    with capture_logs() as lines:
        async with run(config, logs_into(io.StringIO())) as running, aiohttp.ClientSession() as http:
            answer = await http.get(f"{running.api_url}/health", ssl=False)
            assert answer.status == 200
    assert [line["key"] for line in lines if line["event"] == "certificate_expired"] == ["listen.tls"]


async def test_a_certificate_that_cannot_be_used_stops_the_start(tmp_path: Path) -> None:
    """With the path of its key: nobody is served without it who was promised it."""
    pair = GOOD.write(tmp_path)
    (tmp_path / "key.pem").write_text(RENEWED.key)
    config = load_config(
        overrides={"listen": {"port": 0, "admin_port": 0, "tls": pair}, "backends": [{"url": "http://127.0.0.1:9"}]},
        environ={},
    )
    with pytest.raises(ConfigError, match=r"listen\.tls\.key: .*is not the key of"):
        async with run(config, logs_into(io.StringIO())):
            pytest.fail("it has started")


async def test_a_file_that_changes_is_read_by_itself(
    engine: RunningEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If that is wanted, and also when it is a link that is pointed elsewhere."""
    monkeypatch.setattr("gateway.reload.WATCH_EVERY_S", 0.02)
    tree = f"listen: {{port: 0, admin_port: 0}}\nbackends: [{{name: a, url: '{engine.url}'}}]\nwatch: true\n"
    for version, more in (("1", ""), ("2", "mode: observe\n")):
        (tmp_path / version).mkdir()
        (tmp_path / version / "kvgate.yaml").write_text(tree + more)
    (tmp_path / "..data").symlink_to("1")
    (tmp_path / "kvgate.yaml").symlink_to("..data/kvgate.yaml")
    async with gateway(source=ConfigSource(tmp_path / "kvgate.yaml")) as stand:
        assert stand.running.config.mode == "enforce"
        (tmp_path / "..new").symlink_to("2")
        (tmp_path / "..new").rename(tmp_path / "..data")
        await eventually(lambda: stand.running.config.mode == "observe")
