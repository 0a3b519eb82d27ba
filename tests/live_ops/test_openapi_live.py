"""The real gateway keeps to its OpenAPI document, whatever schemathesis makes of it."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import re
from pathlib import Path
from typing import Any, cast

import pytest

from gateway.api.openapi import document
from gateway.simulation.server import EngineOptions, start_engine
from tests.deploy.tools import tool
from tests.e2e.stand import gateway

pytestmark = [pytest.mark.ops, pytest.mark.timeout(900)]

EXAMPLES = int(os.environ.get("KVGATE_TEST_OPENAPI_EXAMPLES", "100"))
"""For each operation, in addition to the cases that cover every edge of the document."""
CASES_MIN = 1_000
CHECKS = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance"),
    *("response_schema_conformance", "negative_data_rejection", "unsupported_method", "allow_header_conformance"),
)


def _of_one_model() -> dict[str, Any]:
    """The document, with a model that is there: otherwise most requests would end at its name."""
    told = cast("dict[str, Any]", copy.deepcopy(document()))
    for name in ("ChatCompletionRequest", "CompletionRequest", "EmbeddingRequest"):
        told["components"]["schemas"][name]["properties"]["model"] = {"enum": ["m", "none"]}
    return told


async def test_the_gateway_keeps_to_its_document(tmp_path: Path) -> None:
    """No answer that the document does not have, no 5xx, and nothing taken that it refuses."""
    program = tool("schemathesis")
    path = tmp_path / "openapi.json"
    path.write_text(json.dumps(_of_one_model()), "utf-8")
    options = EngineOptions(model="m", kv_tokens=65_536, speed=1_000.0, output_tokens_mean=4)
    async with start_engine(options) as engine, gateway(engine.url) as stand:
        command = [program, "run", str(path), "--url", stand.running.api_url, "--checks", ",".join(CHECKS)]
        command += ["--phases", "coverage,fuzzing", "--max-examples", str(EXAMPLES), "--seed", "1", "--no-color"]
        command += ["--generation-database", "none", "--suppress-health-check", "all", "--continue-on-failure"]
        process = await asyncio.create_subprocess_exec(
            *command, cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        said = (await process.communicate())[0].decode()
        (tmp_path / "said").write_text(said, "utf-8")
        assert stand.log_lines("internal_error") == []
    assert process.returncode == 0, said[-20_000:]
    cases = re.search(r"(\d+) generated", said)
    assert cases is not None, said[-2_000:]
    assert int(cases[1]) >= CASES_MIN
