"""The journal on the admin port."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from gateway.admin.decisions import add_decisions
from gateway.reporting.journal import Journal
from gateway.reporting.record import RequestRecord

RECORD = RequestRecord(
    "r-0", "/v1/completions", "m", 200, 1.0, decision="refused", outcome="rejected", reason="headroom"
)
Client = TestClient[web.Request, web.Application]


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    journal, app = Journal(), web.Application()
    for number in range(60):
        journal.ended(replace(RECORD, request_id=f"r-{number}"))
    add_decisions(app, journal)
    async with TestClient(TestServer(app)) as client:
        yield client


async def test_one_decision(client: Client) -> None:
    answer = await client.get("/api/v1/decisions/r-7")
    assert (answer.status, answer.content_type) == (200, "application/json")
    told = await answer.json()
    assert (told["request_id"], told["decision"], told["reason"]) == ("r-7", "refused", "headroom")


@pytest.mark.parametrize("request_id", ["nobody", "r-7%2F..", "%00", "a" * 5_000])
async def test_an_unknown_one(client: Client, request_id: str) -> None:
    answer = await client.get(f"/api/v1/decisions/{request_id}")
    assert answer.status == 404
    assert "no decision on this request is known" in (await answer.json())["error"]


async def test_the_newest(client: Client) -> None:
    """Fifty if nobody says how many."""
    newest = (await (await client.get("/api/v1/decisions")).json())["decisions"]
    assert [entry["request_id"] for entry in newest] == [f"r-{number}" for number in range(59, 9, -1)]
    few = (await (await client.get("/api/v1/decisions?limit=2")).json())["decisions"]
    assert [entry["request_id"] for entry in few] == ["r-59", "r-58"]
    assert len((await (await client.get("/api/v1/decisions?limit=1000")).json())["decisions"]) == 60


@pytest.mark.parametrize("limit", ["0", "-1", "1001", "x", "", "1e2", "9" * 5_000, "%C2%B2"])
async def test_a_limit_that_is_none(client: Client, limit: str) -> None:
    answer = await client.get(f"/api/v1/decisions?limit={limit}")
    assert answer.status == 400
    assert "whole number from 1 to 1,000" in (await answer.json())["error"]
