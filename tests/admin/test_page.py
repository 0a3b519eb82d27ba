from __future__ import annotations

import asyncio
import dataclasses
import gzip
import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from gateway import __version__
from gateway.admin.page import FILES, FOLDER, POLICY, TYPES, page_routes
from gateway.admin.routes import Admin
from gateway.admission.admission import Admission
from gateway.admission.limits import AdmissionLimits
from gateway.admission.snapshot import BackendSnapshot, BackendState, QueueSnapshot, Snapshot, Telemetry
from gateway.domain import Outcome, Reason
from gateway.gate import Gate
from gateway.reporting.journal import Journal
from gateway.reporting.metrics import Metrics
from gateway.reporting.record import RequestRecord
from tests.shell import add_backend, ticket

Client = TestClient[web.Request, web.Application]

TEXTS = {name: file.body.decode() for name, file in FILES.items()}
INDEX = TEXTS["index.html"]
SCRIPTS = {name: text for name, text in TEXTS.items() if name.endswith(".js")}
OWN_SCRIPTS = {name: text for name, text in SCRIPTS.items() if name != "uplot.js"}
WIRE_BYTES_MAX = 50_000
UPLOT = {
    "uplot.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "uplot.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
    "uplot.LICENSE.txt": "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd",
}
"""dist/uPlot.iife.min.js, dist/uPlot.min.css and LICENSE of uPlot 1.6.32, as npm has it."""


@asynccontextmanager
async def page() -> AsyncIterator[Client]:
    app = web.Application()
    app.add_routes(page_routes())
    async with TestClient(TestServer(app), auto_decompress=False) as client:
        yield client


async def test_every_file_comes_whole_typed_and_under_the_strict_policy() -> None:
    """The page itself too; nothing may be guessed, framed, or sent anywhere."""
    async with page() as client:
        for path, name in [("/", "index.html"), *((f"/page/{name}", name) for name in FILES)]:
            answer = await client.get(path, headers={"Accept-Encoding": "identity"})
            assert (answer.status, await answer.read()) == (200, (FOLDER / name).read_bytes())
            assert (answer.content_type, answer.charset) == (TYPES[(FOLDER / name).suffix], "utf-8")
            assert answer.headers["Content-Security-Policy"] == POLICY
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Referrer-Policy"] == "no-referrer"
            assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
            assert "Content-Encoding" not in answer.headers


async def test_a_browser_gets_it_packed_and_asks_only_whether_it_changed() -> None:
    """A forwarded port may be slow: all files together are well below 50 kB on the wire, and once is enough."""
    sizes = 0
    async with page() as client:
        for name, file in FILES.items():
            answer = await client.get(f"/page/{name}", headers={"Accept-Encoding": "gzip, br"})
            packed = await answer.read()
            assert (answer.headers["Content-Encoding"], gzip.decompress(packed)) == ("gzip", file.body)
            sizes += len(packed)
            again = await client.get(f"/page/{name}", headers={"If-None-Match": answer.headers["ETag"]})
            assert (again.status, await again.read()) == (304, b"")
            assert again.headers["Content-Security-Policy"] == POLICY
            changed = await client.get(f"/page/{name}", headers={"If-None-Match": '"other"'})
            assert changed.status == 200
    assert sizes < WIRE_BYTES_MAX


@pytest.mark.parametrize("path", ["/page/", "/page/page.py", "/page/..%2froutes.py", "/page/%2e%2e/page.py", "/x"])
async def test_no_other_file_is_served(path: str) -> None:
    """Names are looked up, never joined to a path."""
    async with page() as client:
        assert (await client.get(path)).status == 404
        assert (await client.post("/")).status == 405


def test_nothing_on_the_page_is_inline() -> None:
    """No script, style or handler stands in the markup, where the policy would stop it."""
    assert re.findall(r"<style|\sstyle=|\son\w+=|javascript:", INDEX) == []
    assert [tag for tag in re.findall(r"<script[^>]*>", INDEX) if "src=" not in tag] == []


def test_all_that_the_page_asks_for_is_here() -> None:
    """Relative names only, each of a file or of a route of this port; scripts import what exists."""
    asked = re.findall(r'(?:src|href)="([^"#]+)"', INDEX)
    files = {name.removeprefix("page/") for name in asked if name.startswith("page/")}
    assert files <= FILES.keys()
    assert {name for name in asked if not name.startswith("page/")} == {
        "metrics",
        "api/v1/state",
        "api/v1/decisions?limit=50",
    }
    imported = {name for text in OWN_SCRIPTS.values() for name in re.findall(r'from "\./([^"]+)"', text)}
    assert imported <= FILES.keys()
    assert files | imported | {"index.html", "uplot.LICENSE.txt"} == FILES.keys()


def test_nothing_is_fetched_from_elsewhere() -> None:
    """No file names another host, but for a namespace, an example, and where the drawing library comes from."""
    named = {host for text in TEXTS.values() for host in re.findall(r"(?:https?:)?//([\w.-]+\.\w+|[\w-]+:\d)", text)}
    assert named <= {"www.w3.org", "github.com", "your-engine:8"}


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_script_makes_markup_or_code_from_text(name: str) -> None:
    """What the gateway says is set as text: a model's name can be anything."""
    assert re.findall(r"(?:inner|outer)HTML|insertAdjacent|document\.write|eval\(|new Function", SCRIPTS[name]) == []


@pytest.mark.parametrize("name", UPLOT)
def test_the_drawing_library_is_as_its_authors_published_it(name: str) -> None:
    """With its licence beside it."""
    assert hashlib.sha256(FILES[name].body).hexdigest() == UPLOT[name]
    assert "(v1.6.32)" in TEXTS["uplot.js"]


def test_scripts_find_the_places_that_they_fill() -> None:
    """Each id they look for is in the page, once."""
    ids = re.findall(r'\bid="([^"]+)"', INDEX)
    assert len(set(ids)) == len(ids)
    assert {each for text in OWN_SCRIPTS.values() for each in re.findall(r'byId\("([^"]+)"\)', text)} <= set(ids)
    assert set(re.findall(r'(?:aria-labelledby|for)="([^"]+)"', INDEX)) <= set(ids)


def test_the_page_reads_fields_that_the_state_has() -> None:
    """A renamed field of the snapshot would leave a gap on the page."""
    backend = {field.name for field in dataclasses.fields(BackendSnapshot)} | {"kind", "kv_layout"}
    read = re.findall(r"\bb\.(\w+)", TEXTS["backends.js"] + TEXTS["waiting.js"])
    forecasts = {"peak_forecast_30s_tokens", "peak_forecast_300s_tokens", "exhaustion_s", "margin_share"}
    assert set(read) - {"ever", "outcome", "lately"} <= backend | forecasts
    queue = {field.name for field in dataclasses.fields(QueueSnapshot)}
    assert set(re.findall(r"\bq\.(\w+)", TEXTS["waiting.js"])) <= queue
    journal = Journal()
    journal.ended(RequestRecord("r", "/v1/completions", "m", 200, 1.0, decision="admitted"))
    assert set(re.findall(r"\bd\.(\w+)", TEXTS["decisions.js"] + TEXTS["words.js"])) <= journal.latest(1)[0].keys()
    top = {field.name for field in dataclasses.fields(Snapshot)} | {"version", "decisions"}
    assert set(re.findall(r"\bstate\.(\w+)", TEXTS["waiting.js"] + TEXTS["page.js"])) <= top


def test_the_page_has_words_for_every_reason_and_a_tone_for_every_state() -> None:
    """Nothing that the gateway can say is shown raw."""
    for reason in Reason:
        assert f"  {reason.value}: [" in TEXTS["words.js"]
    for state in (*BackendState, *Telemetry):
        assert re.search(rf"\b{state.value}: \"", TEXTS["backends.js"])


PALETTES = re.findall(r":root \{([^}]*)\}", TEXTS["page.css"])[:2]


@pytest.mark.parametrize("palette", PALETTES, ids=["light", "dark"])
def test_text_stands_out_from_its_ground(palette: str) -> None:
    """WCAG 2.2 AA: 4.5 to 1 for text, 3 to 1 for what is drawn."""
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-fA-F]{6})\b", palette))
    on_both = ("ink", "muted", "link", "good", "waited", "bad")
    texts = [(name, ground) for name in on_both for ground in ("surface", "ground")]
    texts += [(name, f"{name}-ground") for name in ("good", "waited", "bad")]
    texts += [("muted", "idle-ground"), ("ink", "bad-ground")]
    weak = [pair for pair in texts if _contrast(colours[pair[0]], colours[pair[1]]) < 4.5]
    drawn = [(name, "surface") for name in ("resident", "foreign", "draining", "free-line", "bad", "waited")]
    weak += [pair for pair in drawn if _contrast(colours[pair[0]], colours[pair[1]]) < 3]
    assert weak == []


def _contrast(one: str, other: str) -> float:
    darker, lighter = sorted((_luminance(one), _luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    """Relative luminance, as WCAG 2.2 defines it."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


async def test_the_state_counts_decisions_for_the_page() -> None:
    """By model, class, outcome and reason; what never happened is not there."""
    metrics = Metrics(["m"], version="1", config_sha256="c", exceed_ratio_target=0.01)
    gate = Gate(Admission(AdmissionLimits()), asyncio.get_running_loop(), [metrics])
    add_backend(gate, "a")
    admin = Admin(metrics, gate.snapshot, dict, lambda: False, lambda: None)
    async with TestClient(TestServer(admin.app())) as client:
        before = await (await client.get("/api/v1/state")).json()
        async with gate.enter(ticket(gate)) as place:
            place.end(Outcome.FINISHED)
        after = await (await client.get("/api/v1/state")).json()
        assert (await client.get("/")).content_type == "text/html"
    assert (before["version"], before["decisions"]) == (__version__, [])
    assert after["decisions"] == [
        {"model": "m", "priority": "interactive", "outcome": "admitted", "reason": "ok", "count": 1}
    ]
