"""The page in a real browser, at two widths: under load, with engines down, empty, away, and with hostile names."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from gateway.admin.page import page_routes
from gateway.config.source import ConfigSource
from gateway.simulation.server import EngineOptions, start_engine
from tests.e2e.stand import gateway
from tests.live_ops.browser import Watched, chromium, opened

pytestmark = [pytest.mark.ops, pytest.mark.timeout(120)]

WIDTHS = (1280, 390)
AWAY_MAX_S = 15.0
HOSTILE = "<img src=x onerror=alert(1)>"
BACKEND: Mapping[str, object] = {
    "name": "large",
    "state": "ready",
    "telemetry": "fresh",
    "hosted": False,
    "models": ["m"],
    "engine_version": "0.32.0",
    "kind": "vllm",
    "kv_layout": None,
    "capacity_tokens": 4096,
    "resident_tokens": 1024,
    "reserved_tokens": 2048,
    "draining_tokens": 256,
    "foreign_tokens": 512,
    "held_back_tokens": 128,
    "headroom_tokens": 1152,
    "requests": 7,
    "running": 6,
    "waiting": 1,
    "preemptions": 0,
    "telemetry_age_s": 0.2,
    "drain_timeouts": 0,
    "peak_forecast_30s_tokens": 1800,
    "peak_forecast_300s_tokens": 2000,
    "exhaustion_s": 42.0,
    "margin_share": 0.03,
}
QUEUE: Mapping[str, object] = {"model": "m", "priority": "batch", "depth": 3, "tokens": 900, "oldest_wait_s": 2.5}
REFUSED: Mapping[str, object] = {
    "request_id": "r1",
    "arrived_monotonic_s": 99.0,
    "model": "m",
    "tenant": "team-a",
    "priority": "batch",
    "decision": "refused",
    "reason": "headroom",
    "backend": None,
    "prompt_tokens": 300,
    "max_tokens": 1000,
    "output_tokens": None,
    "output_tokens_p50": 200,
    "output_tokens_p90": 700,
    "kv_tokens": 0,
    "need_tokens": 1264,
    "headroom_tokens": 380,
    "wait_s": 0.0,
    "retry_after_s": 4.0,
    "ttft_s": None,
    "duration_s": 0.002,
    "outcome": "kv_capacity_exhausted",
}
ADMITTED: Mapping[str, object] = {
    **REFUSED,
    "request_id": "r2",
    "arrived_monotonic_s": 97.0,
    "decision": "admitted_after_wait",
    "reason": "ok_after_wait",
    "backend": "large",
    "output_tokens": 230,
    "kv_tokens": 1008,
    "headroom_tokens": None,
    "wait_s": 1.5,
    "retry_after_s": None,
    "ttft_s": 1.7,
    "duration_s": 6.0,
    "outcome": "finished",
}
COUNTS = [
    {"model": "m", "priority": "batch", "outcome": "admitted", "reason": "ok", "count": 40},
    {"model": "m", "priority": "batch", "outcome": "rejected", "reason": "headroom", "count": 2},
]


def _state(*backends: Mapping[str, object], **changes: object) -> Mapping[str, object]:
    state = {"now": 100.0, "draining": False, "queues": [QUEUE], "queue_requests_max": 24, "decisions": COUNTS}
    return {**state, "version": "1.2.3", "backends": list(backends), **changes}


@asynccontextmanager
async def _page(**options: object) -> AsyncIterator[Watched]:
    """The page alone, told a state by the test."""
    app = web.Application()
    app.add_routes(page_routes())
    options = {"state": _state(BACKEND), "decisions": [REFUSED, ADMITTED], **options}
    async with (
        chromium() as browser,
        TestServer(app) as server,
        opened(browser, str(server.make_url("")), **options) as watched,  # type: ignore[arg-type]
    ):
        yield watched


@pytest.mark.parametrize("width", WIDTHS)
async def test_under_live_load_and_when_the_engine_goes(width: int) -> None:
    """A real gateway, a simulated engine with requests in it; then the engine is gone, and the page says so."""
    options = EngineOptions(model="m", kv_tokens=4096, speed=0.05, output_tokens_mean=400)
    async with (
        chromium() as browser,
        start_engine(options, "127.0.0.1", 0) as engine,
        gateway({"name": "large", "url": engine.url}, settles=False) as stand,
        opened(browser, stand.running.admin_url, width=width) as watched,
    ):
        await watched.until("#backends .chip", "ready")
        assert await watched.text("[data-figure=running] .value") == "0"
        async with asyncio.TaskGroup() as group:
            requests = [group.create_task(stand.complete(max_tokens=300)) for _ in range(3)]
            await watched.until("[data-figure=running] .value", "3")
            await watched.until("#reasons", "admitted")
            assert await watched.text(".parts [data-part=resident] dd") != "0"
            await watched.until("#decisions .why", "KV tokens on large.")
            await watched.is_clean()
            for request in requests:
                request.cancel()
        await engine.die()
        await watched.until("#backends .chip", "down")
        assert "nothing is sent while it is down" in await watched.text("#backends")
        assert await watched.text("[data-figure=running] .more") == "0 of 1 backend ready"
        await watched.is_clean()


@pytest.mark.parametrize("width", WIDTHS)
async def test_every_number_stands_in_the_text(width: int) -> None:
    """Bars, marks and lines only repeat it."""
    async with _page(width=width) as watched:
        await watched.until("#version", "KVGate 1.2.3")
        parts = await watched.page.locator("#backends .parts dd").all_inner_texts()
        assert parts == ["1,024", "1,024", "256", "512", "128", "1,152"]
        assert await watched.text("[data-figure=headroom] .value") == "28 %"
        assert await watched.text("[data-figure=full] .value") == "42 s"
        forecast = "Forecast peak ▾ 1,800 (44 %) within 30 s, 2,000 (49 %) within 5 min · full in 42 s"
        assert forecast in await watched.text("[data-f=forecast]")
        assert await watched.text("#backends [data-f=telemetry]") == "telemetry fresh, 200 ms old"
        row = await watched.page.locator("#queues tbody tr td").all_inner_texts()
        assert [text.replace("\N{NO-BREAK SPACE}", " ") for text in row] == ["3", "900", "2.5 s"]
        assert "no headroom" in await watched.text("#reasons")
        widths = await watched.page.evaluate(
            "[...document.querySelectorAll('.bar i')].map((part) => part.style.getPropertyValue('--part'))"
        )
        assert [float(each) for each in widths] == [0.25, 0.25, 0.0625, 0.125, 0.03125, 0.28125]
        await watched.is_clean()


@pytest.mark.parametrize("width", WIDTHS)
async def test_why_a_request_was_refused(width: int) -> None:
    """In a sentence; all its numbers at a key press, while the table holds still; predicted beside real."""
    async with _page(width=width) as watched:
        await watched.until("#decisions", "no headroom")
        why = await watched.text("#decisions summary")
        assert "It needs 1,264 KV tokens; at most 380 were free" in why
        assert "Told to come back after 4.0 s." in why
        outputs = await watched.page.locator("#decisions .output").all_inner_texts()
        assert "200–700 → 230" in outputs[1]
        await watched.page.locator("#decisions summary").first.focus()
        await watched.page.keyboard.press("Enter")
        await watched.until("#decisions .facts", "max_tokens")
        await watched.until("#hold:checked", "")
        await watched.page.keyboard.press("Enter")
        await watched.until("#hold:not(:checked)", "")
        await watched.page.locator("#only-refused").check()
        assert await watched.page.locator("#decisions tbody").count() == 1
        await watched.is_clean()


@pytest.mark.parametrize("width", WIDTHS)
async def test_backends_that_are_down_or_unknown(width: int) -> None:
    """Said in words, and told to a screen reader when it changes."""
    down = {**BACKEND, "state": "down", "telemetry": "lost", "telemetry_age_s": 80.0, "headroom_tokens": 0}
    cold = {**BACKEND, "name": "new", "state": "cold", "telemetry": "lost", "capacity_tokens": 0, "models": []}
    hosted = {**BACKEND, "name": "cloud", "hosted": True, "telemetry": "none", "capacity_tokens": 0}
    async with _page(width=width, state=_state(BACKEND, cold, hosted)) as watched:
        await watched.until("#backends", "capacity unknown")
        assert "its provider looks after the memory" in await watched.text("#backends")
        watched.state = _state(down, cold, hosted)
        await watched.until("#announce", "Backend large: down, telemetry lost.")
        assert "nothing is sent while it is down" in await watched.text("#backends")
        assert "telemetry lost, 80 s old" in await watched.text("#backends")
        assert "Forecast" not in await watched.text("#backends")
        await watched.is_clean()


@pytest.mark.parametrize("width", WIDTHS)
async def test_an_empty_gateway_says_what_to_do(width: int) -> None:
    """No backend, no request: no table without rows, no bar without memory."""
    async with _page(width=width, state=_state(queues=[], decisions=[]), decisions=[]) as watched:
        await watched.until("#version", "KVGate 1.2.3")
        assert "kvgate serve" in await watched.text("#backends-empty")
        assert await watched.page.locator("table:visible").count() == 0
        for place in ("#backends-empty", "#queues-empty", "#reasons-empty", "#decisions-empty"):
            assert await watched.page.locator(place).is_visible()
        await watched.is_clean()


async def test_a_gateway_that_went_away_is_said_so_and_asked_less_often() -> None:
    """Old numbers stay, marked as such; a press of the button asks at once, and all is well again."""
    async with _page(clock=True) as watched:
        await watched.until("#pulse", "live")
        clock = watched.page.clock
        await clock.pause_at(await watched.page.evaluate("Date.now() + 2_000"))
        watched.down = True
        await clock.run_for(1_000)
        await watched.until("#announce", "The gateway does not answer.")
        await watched.until("#away-more", "Next try in")
        pause_s = float((await watched.text("#away-more")).split()[-2])
        assert pause_s <= 2
        while pause_s < AWAY_MAX_S:
            await clock.run_for(int(1_000 * pause_s))
            pause_s = min(AWAY_MAX_S, 2 * pause_s)
            await watched.until(
                "#away-more", f"Next try in {pause_s:.0f} s" if pause_s >= 10 else f"in {pause_s:.1f} s"
            )
        assert await watched.text("[data-figure=headroom] .value") == "28 %"
        watched.down = False
        await watched.page.locator("#retry").click()
        await watched.until("#announce", "The gateway answers again.")
        assert await watched.page.locator("#away").is_hidden()
        assert watched.elsewhere == []


async def test_nothing_is_asked_while_nobody_looks() -> None:
    """A hidden page rests, and asks at once when it is looked at again."""
    async with _page(clock=True) as watched:
        await watched.until("#pulse", "live")
        hide = "(hidden) => { Object.defineProperty(document, 'hidden', { configurable: true, get: () => hidden });"
        hide += " document.dispatchEvent(new Event('visibilitychange')); }"
        await watched.page.evaluate(hide, True)
        await watched.until("#pulse", "paused")
        asked = watched.asked
        await watched.page.clock.run_for(60_000)
        assert await watched.text("#pulse") == "paused"
        assert watched.asked == asked
        await watched.page.evaluate(hide, False)
        await watched.until("#pulse", "live")
        assert watched.asked > asked


@pytest.mark.parametrize("width", WIDTHS)
async def test_hostile_names_stay_text(width: int) -> None:
    """Whatever the gateway repeats of a client or an engine, the page shows letter by letter."""
    backend = {**BACKEND, "name": HOSTILE, "models": [HOSTILE] * 9, "kind": HOSTILE, "engine_version": HOSTILE}
    backend["state"] = backend["telemetry"] = HOSTILE
    names = dict.fromkeys(("request_id", "model", "tenant", "priority", "reason", "backend", "outcome"), HOSTILE)
    counts = [{"model": HOSTILE, "priority": HOSTILE, "outcome": HOSTILE, "reason": HOSTILE, "count": 1}]
    state = _state(backend, queues=[{**QUEUE, "model": HOSTILE}], decisions=counts, version=HOSTILE)
    decisions = [{**REFUSED, **names}, {**ADMITTED, **names, "request_id": HOSTILE * 20}]
    async with _page(width=width, state=state, decisions=decisions) as watched:
        for place in ("#backends h3", "#queues", "#reasons", "#decisions .model", "#decisions .why", "#version"):
            await watched.until(place, HOSTILE)
        assert await watched.page.locator("main img").count() == 0
        await watched.is_clean()


async def test_the_keyboard_reaches_everything_in_reading_order() -> None:
    """First the way past the head, then what can be used, from top to bottom."""
    async with _page() as watched:
        await watched.until("#decisions", "no headroom")
        name = "(({ id, tagName, className }) => id || className || tagName)(document.activeElement)"
        reached = []
        for _ in range(7):
            await watched.page.keyboard.press("Tab")
            reached.append(await watched.page.evaluate(name))
        assert reached == ["skip", "only-refused", "hold", "SUMMARY", "SUMMARY", "A", "A"]
        await watched.page.locator(".skip").focus()
        await watched.page.keyboard.press("Enter")
        assert await watched.page.evaluate("document.activeElement.id") == "main"


@pytest.mark.parametrize("width", WIDTHS)
async def test_screen_readers_meet_a_table_at_any_width(width: int) -> None:
    """Landmarks, headings, and cells that stay cells although a phone shows them as cards."""
    async with _page(width=width) as watched:
        await watched.until("#decisions", "no headroom")
        page = watched.page
        for role in ("banner", "main", "contentinfo"):
            assert await page.get_by_role(role).count() == 1
        table = page.get_by_role("table", name="Last decisions")
        assert await table.get_by_role("columnheader").count() == 11
        assert await table.get_by_role("rowheader").all_inner_texts() == ["no headroom", "admitted later"]
        headings = [await page.get_by_role("heading", level=level).count() for level in (1, 2, 3)]
        assert headings == [1, 5, 1]


async def test_dark_where_the_reader_wants_it() -> None:
    """And light elsewhere."""
    grounds = []
    for scheme in ("light", "dark"):
        async with _page(scheme=scheme) as watched:
            await watched.until("#version", "KVGate")
            grounds.append(await watched.page.evaluate("getComputedStyle(document.body).backgroundColor"))
            await watched.is_clean()
    assert grounds == ["rgb(245, 245, 242)", "rgb(16, 19, 23)"]


async def test_it_asks_for_the_token_where_the_gateway_does(tmp_path: Path) -> None:
    """Until it has it, nothing is asked again; a wrong one is said to be wrong; the right one is kept by this tab."""
    token = "a-token-of-the-admin-port"
    (tmp_path / "token").write_text(token)
    listen = {"port": 0, "admin_port": 0, "admin_token": f"file:{tmp_path}/token"}
    source = ConfigSource(overrides={"listen": listen, "backends": [{"name": "gone", "url": "http://127.0.0.1:9"}]})
    async with (
        chromium() as browser,
        gateway(source=source, settles=False) as stand,
        opened(browser, stand.running.admin_url, width=390) as watched,
    ):
        await watched.until("#locked-what", "This gateway asks for its token.")
        await watched.page.fill("#token", "wrong")
        await watched.page.press("#token", "Enter")
        await watched.until("#locked-what", "This is not the gateway's token.")
        assert watched.asked == 2
        await watched.page.fill("#token", f" {token} ")
        await watched.page.click("#locked button")
        await watched.until("#backends .chip", "cold")
        assert await watched.page.is_hidden("#locked")
        assert await watched.page.is_hidden("#links")
        await watched.page.reload()
        await watched.until("#backends .chip", "cold")
        assert await watched.page.is_hidden("#locked")
        assert token not in await watched.page.content()
        watched.errors = [error for error in watched.errors if "status of 401" not in error]
        await watched.is_clean()
