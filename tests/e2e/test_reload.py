"""Reload over real sockets: backends come and go under streams, keys rotate, and a bad file changes nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from structlog.testing import capture_logs

from gateway.config.source import ConfigSource
from gateway.simulation.server import EngineOptions, RunningEngine, start_engine
from tests.e2e.stand import SLOW, SMALL, Answer, Stand, gateway

LARGE = EngineOptions(model="m", kv_tokens=65_536, sequences_max=512, speed=0.25)
"""Slow enough that everybody is there before the first is done."""
STREAMS = 200


@pytest.fixture(autouse=True)
def _pages_are_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.admin.routes.RENDER_EVERY_S", 0.0)


@dataclass
class House:
    """A gateway whose configuration is a file."""

    stand: Stand
    file: Path

    def write(self, *backends: tuple[str, str], **more: object) -> None:
        """Names and URLs of backends, and other keys."""
        self.file.write_text(yaml.safe_dump(tree(*backends, **more)))

    async def reload(self) -> tuple[int, dict[str, object]]:
        """Ask for it on the admin port."""
        async with self.stand.http.post(f"{self.stand.running.admin_url}/-/reload") as answer:
            content = await answer.json()
            assert isinstance(content, dict)
            return answer.status, content

    async def order(self, path: str, **headers: str) -> int:
        """POST to the admin port."""
        async with self.stand.http.post(self.stand.running.admin_url + path, headers=headers) as answer:
            await answer.read()
            return answer.status


def tree(*backends: tuple[str, str], **more: object) -> dict[str, object]:
    return {
        "listen": {"port": 0, "admin_port": 0},
        "telemetry": {"interval_s": 0.05},
        "backends": [{"name": name, "url": url} for name, url in backends],
        **more,
    }


@asynccontextmanager
async def house(folder: Path, *backends: tuple[str, str], **more: object) -> AsyncIterator[House]:
    file = folder / "kvgate.yaml"
    file.write_text(yaml.safe_dump(tree(*backends, **more)))
    async with gateway(source=ConfigSource(file)) as stand:
        yield House(stand, file)


@asynccontextmanager
async def engines(*options: EngineOptions) -> AsyncIterator[list[RunningEngine]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(start_engine(each)) for each in options]


def hurry(engine: RunningEngine) -> None:
    """Its next steps take a hundredth of the time."""
    engine._live._speed *= 100


async def stream(stand: Stand, tokens: int) -> Answer:
    return await stand.complete(max_tokens=tokens, ignore_eos=True, stream=True)


async def page(stand: Stand) -> str:
    return (await stand.admin("/metrics")).body.decode()


def is_whole(answer: Answer) -> bool:
    return answer.status == 200 and answer.body.endswith(b"data: [DONE]\n\n")


@pytest.mark.timeout(120)
async def test_no_stream_is_lost_when_backends_come_and_go(tmp_path: Path) -> None:
    """200 streams run while one backend leaves and another comes; all end whole, and new ones go to the new one."""
    async with engines(LARGE, LARGE, LARGE) as (a, b, c), house(tmp_path, ("a", a.url), ("b", b.url)) as built:
        stand = built.stand
        stand.http.connector._limit = 0  # type: ignore[union-attr]  # aiohttp's client keeps to 100 connections
        async with asyncio.TaskGroup() as group:
            streams = [group.create_task(stream(stand, 300)) for _ in range(STREAMS)]
            await stand.until(lambda state: state.live == STREAMS, within_s=20)
            built.write(("b", b.url), ("c", c.url))
            status, told = await built.reload()
            assert (status, told["backends"]) == (200, {"added": ["c"], "changed": [], "removed": ["a"]})
            state = await stand.state()
            assert {each.name: each.state for each in state.backends} == {"a": "draining", "b": "ready", "c": "ready"}
            assert state.backend("a").requests > 0
            for engine in (a, b, c):
                hurry(engine)
            later = [await stream(stand, 2) for _ in range(20)]
        assert all(is_whole(task.result()) for task in streams)
        assert {answer.headers["x-kvgate-backend"] for answer in later} <= {"b", "c"}
        assert {task.result().headers["x-kvgate-backend"] for task in streams} == {"a", "b"}
        await stand.until(lambda state: {each.name for each in state.backends} == {"b", "c"})
        assert {line["code"] for line in stand.log_lines()} == {200}
        assert 'backend="a"' not in await page(stand)


async def test_a_backend_moves_to_another_address(tmp_path: Path) -> None:
    """Under its old name: what runs ends where it began, what waits and what comes goes to the new engine."""
    async with engines(SLOW, SMALL) as (old, new), house(tmp_path, ("a", old.url)) as built:
        stand = built.stand
        async with asyncio.TaskGroup() as group:
            first = group.create_task(stream(stand, 700))
            await stand.until(lambda state: state.live == 1)
            second = group.create_task(stream(stand, 700))
            await stand.until(lambda state: state.waiting == 1)
            built.write(("a", new.url))
            status, told = await built.reload()
            assert (status, told["changed"]) == (200, ["backends.a"])
            assert is_whole(await second)
            assert not first.done()
            hurry(old)
        assert is_whole(first.result())


async def test_a_bad_file_changes_nothing(tmp_path: Path) -> None:
    """Every fault is told and logged with its path, the metric says so, and requests go on as before."""
    async with engines(SMALL) as (a,), house(tmp_path, ("a", a.url)) as built:
        stand = built.stand
        before = built.file.read_text()
        for text, path in (
            (before + "admision: {}\n", "admision"),
            (before.replace("interval_s: 0.05", "interval_s: fast"), "telemetry.interval_s"),
            (
                before.replace("name: a", "name: a\n  kv: {model_config: /nowhere/config.json}"),
                "backends.0.kv.model_config",
            ),
            ("backends: [", f"{built.file}:1:12"),
            ("", "backends"),
        ):
            built.file.write_text(text)
            with capture_logs() as lines:
                status, told = await built.reload()
            assert (status, told["reloaded"]) == (400, False)
            assert [problem["path"] for problem in told["problems"]] == [path]  # type: ignore[attr-defined]
            assert [line["path"] for line in lines if line["event"] == "config_fault"] == [path]
            assert "kvgate_config_last_reload_successful 0.0" in await page(stand)
            assert (await stand.complete(max_tokens=2)).status == 200
        built.file.write_text(before)
        status, told = await built.reload()
        assert (status, told["changed"], told["restart_needed"]) == (200, [], [])
        assert "kvgate_config_last_reload_successful 1.0" in await page(stand)


async def test_keys_rotate(tmp_path: Path) -> None:
    """A file with another key: the old one is refused from then on, and no key is in the answer."""
    key = tmp_path / "key"
    key.write_text("sk-old")
    tenants = [{"name": "t", "keys": [f"file:{key}"]}]
    async with engines(SMALL) as (a,), house(tmp_path, ("a", a.url), tenants=tenants) as built:

        async def status_with(secret: str) -> int:
            return (await built.stand.complete({"authorization": f"Bearer {secret}"}, max_tokens=2)).status

        assert [await status_with("sk-old"), await status_with("sk-new")] == [200, 401]
        key.write_text("sk-new")
        status, told = await built.reload()
        assert (status, told["changed"]) == (200, ["tenants.t"])
        assert [await status_with("sk-old"), await status_with("sk-new")] == [401, 200]
        assert "sk-" not in json.dumps(told)


async def test_limits_and_input_take_effect_and_addresses_do_not(tmp_path: Path) -> None:
    """What needs a restart is named and left alone; the rest holds for the next request."""
    async with engines(SMALL) as (a,), house(tmp_path, ("a", a.url)) as built:
        stand = built.stand
        assert (await stand.complete(max_tokens=2, zzz=1)).status == 400
        built.write(
            ("a", a.url),
            listen={"port": 1, "admin_port": 0},
            state={"path": str(tmp_path / "state")},
            input={"unknown_fields": "drop"},
            response_headers=False,
            mode="observe",
            admission={"risk": 0.2, "never_fits": "clamp"},
        )
        status, told = await built.reload()
        assert status == 200
        assert told["restart_needed"] == ["listen.port", "state.path"]
        assert told["changed"] == [
            "mode",
            "admission.risk",
            "admission.never_fits",
            "input.unknown_fields",
            "response_headers",
        ]
        answer = await stand.complete(max_tokens=2, zzz=1)
        assert answer.status == 200
        assert [name for name in answer.headers if name.lower().startswith("x-kvgate")] == []
        assert json.loads((await stand.admin("/api/v1/state")).body)["mode"] == "observe"
        shown = await page(stand)
        assert f'kvgate_config_info{{sha256="{told["config_sha256"]}"}} 1.0' in shown
        assert shown.count("\nkvgate_config_info{") == 1
        assert 'kvgate_prediction_target_exceed_ratio{model_name="m"} 0.2' in shown


async def test_an_operator_drains_and_resumes_a_backend(tmp_path: Path) -> None:
    """It stays drained over a reload; orders from another site and for nobody are refused."""
    async with engines(SMALL, SMALL) as (a, b), house(tmp_path, ("a", a.url), ("b", b.url)) as built:
        stand = built.stand
        assert await built.order("/api/v1/backends/a/drain") == 200
        assert (await stand.state()).backend("a").state == "draining"
        assert await built.order("/api/v1/backends/zz/drain") == 404
        assert await built.order("/api/v1/backends/b/drain", **{"sec-fetch-site": "cross-site"}) == 403
        assert await built.order("/-/reload", **{"sec-fetch-site": "cross-site"}) == 403
        assert (await built.reload())[0] == 200
        answers = [await stand.complete(max_tokens=2) for _ in range(6)]
        assert {answer.headers["x-kvgate-backend"] for answer in answers} == {"b"}
        assert await built.order("/api/v1/backends/b/drain") == 200
        refused = await stand.complete(max_tokens=2)
        assert (refused.status, refused.error.code) == (503, "no_backend")
        assert await built.order("/api/v1/backends/a/resume") == 200
        assert (await stand.complete(max_tokens=2)).headers["x-kvgate-backend"] == "a"


async def test_one_that_was_about_to_leave_stays_if_it_is_wanted_again(tmp_path: Path) -> None:
    """With its books: the request that held it up is still on them."""
    async with engines(SLOW, SMALL) as (a, b), house(tmp_path, ("a", a.url), ("b", b.url)) as built:
        stand = built.stand
        assert await built.order("/api/v1/backends/b/drain") == 200
        async with asyncio.TaskGroup() as group:
            running = group.create_task(stream(stand, 300))
            await stand.until(lambda state: state.backend("a").requests == 1)
            await built.order("/api/v1/backends/b/resume")
            built.write(("b", b.url))
            assert (await built.reload())[1]["backends"] == {"added": [], "changed": [], "removed": ["a"]}
            assert await built.order("/api/v1/backends/a/resume") == 404
            built.write(("a", a.url), ("b", b.url))
            assert (await built.reload())[1]["backends"] == {"added": ["a"], "changed": [], "removed": []}
            state = (await stand.state()).backend("a")
            assert (state.state, state.requests) == ("ready", 1)
            hurry(a)
        assert is_whole(running.result())
