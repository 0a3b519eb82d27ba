"""A real browser for a test: Debian's headless Chromium, watched for errors and for requests to elsewhere."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import msgspec
import pytest

if TYPE_CHECKING:
    from playwright.async_api import Browser, ConsoleMessage, Page, Request, Route

CHROMIUM = shutil.which("chromium-headless-shell")
WAIT_MAX_MS = 15_000

Json = Mapping[str, object]


@dataclass  # without slots: the driver keeps notes on objects whose methods it calls
class Watched:
    """An open page, and what it did that it must not do."""

    page: Page
    url: str
    errors: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    asked: int = 0
    """How often it asked for the state."""
    state: Json | None = None
    """Given instead of the gateway's own; the next likewise. `down` beats both."""
    decisions: list[Json] = field(default_factory=list)
    down: bool = False

    async def text(self, selector: str) -> str:
        """What a place says, without the spaces that only keep lines together."""
        said: str = await self.page.locator(selector).first.inner_text()
        return said.replace("\N{NO-BREAK SPACE}", " ")

    async def until(self, selector: str, text: str) -> None:
        """Wait until a place says this."""
        found = self.page.locator(selector).filter(has_text=text).first
        await found.wait_for(state="attached", timeout=WAIT_MAX_MS)

    async def is_clean(self) -> None:
        """No error, no breach of the policy, nobody else asked, nothing wider than the screen."""
        assert self.errors == []
        assert self.elsewhere == []
        assert await self.page.evaluate("document.documentElement.scrollWidth <= innerWidth")

    def on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(message.text)

    def on_request(self, request: Request) -> None:
        if not request.url.startswith((self.url, "data:")):
            self.elsewhere.append(request.url)
        self.asked += request.url.endswith("/api/v1/state")

    async def on_state(self, route: Route) -> None:
        if self.down:
            await route.abort()
        elif self.state is None:
            await route.continue_()
        else:
            await route.fulfill(body=msgspec.json.encode(self.state), content_type="application/json")

    async def on_decisions(self, route: Route) -> None:
        if self.down:
            await route.abort()
        elif self.state is None:
            await route.continue_()
        else:
            body = msgspec.json.encode({"decisions": self.decisions})
            await route.fulfill(body=body, content_type="application/json")


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """A browser; skips the test where there is none."""
    if CHROMIUM is None:
        pytest.skip("needs Debian's package chromium-headless-shell")
    playwright = pytest.importorskip("playwright.async_api", reason="needs playwright")
    async with playwright.async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def opened(
    browser: Browser,
    url: str,
    *,
    width: int = 1280,
    scheme: Literal["light", "dark"] = "light",
    state: Json | None = None,
    decisions: list[Json] | None = None,
    clock: bool = False,
) -> AsyncIterator[Watched]:
    """The page of the gateway at `url`, open in a window of its own.

    Args:
        browser: where.
        url: of the admin port.
        width: of the window, in pixels.
        scheme: light or dark.
        state: what the page is told instead of the gateway's state.
        decisions: what it is told of decisions.
        clock: keep the page's time by hand.
    """
    page = await browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    watched = Watched(page, url, state=state, decisions=decisions or [])
    page.set_default_timeout(WAIT_MAX_MS)
    page.on("console", watched.on_console)
    page.on("pageerror", lambda error: watched.errors.append(str(error)))
    page.on("request", watched.on_request)
    await page.route("**/api/v1/state", watched.on_state)
    await page.route("**/api/v1/decisions*", watched.on_decisions)
    if clock:
        await page.clock.install()
    try:
        await page.goto(f"{url}/")
        yield watched
    finally:
        await page.close()
