"""Behind nginx and HAProxy no request runs that the front did not send: the two never see different ends of one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.live_ops.http_fronts import FRONTS, PATH, smuggle
from tests.smuggling import corpus

pytestmark = pytest.mark.ops


@pytest.mark.parametrize("kind", FRONTS)
async def test_gateway_and_front_agree_on_where_requests_end(kind: str, tmp_path: Path) -> None:
    """A hidden request that ran is one that the front saw too."""
    tool, _ = FRONTS[kind]
    if shutil.which(tool, path=PATH) is None:
        pytest.skip(f"{tool} is not installed")
    tally = await smuggle(kind, tmp_path, corpus())
    assert (tally.desyncs, tally.faults) == (frozenset(), 0)
    assert tally.refused > 0.8 * tally.payloads
