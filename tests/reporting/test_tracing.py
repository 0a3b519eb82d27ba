"""Tracing is what OpenTelemetry's own variables say; without them nothing of it is even loaded."""

import logging
import subprocess
import sys

import pytest
from structlog.testing import capture_logs

from gateway.reporting.tracing import is_wanted, open_tracing

OFF = """
import asyncio, sys
from gateway.reporting.tracing import open_tracing

async def main():
    async with open_tracing("http") as tracing:
        assert tracing is None

asyncio.run(main())
assert not [name for name in sys.modules if name.partition(".")[0] == "opentelemetry"]
"""


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the machine that runs the tests says."""
    for name in ("OTEL_SDK_DISABLED", "OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "x"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, False),
        ({"OTEL_SDK_DISABLED": "True", "OTEL_TRACES_EXPORTER": "otlp"}, False),
    ],
)
def test_what_turns_it_on(environ: dict[str, str], wanted: bool) -> None:
    assert is_wanted(environ) == wanted


def test_off_loads_nothing() -> None:
    """In an interpreter that has not met OpenTelemetry yet."""
    subprocess.run([sys.executable, "-W", "error", "-c", OFF], check=True)


async def test_wanted_but_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log says what to install; the gateway serves on."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    monkeypatch.setitem(sys.modules, "gateway.reporting.otel", None)
    with capture_logs() as lines:
        async with open_tracing("http") as tracing:
            assert tracing is None
    (line,) = lines
    assert (line["event"], line["log_level"]) == ("tracing_not_installed", "warning")
    assert "kvgate[otel]" in line["remedy"]


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("OTEL_TRACES_EXPORTER", "otlp,zipkin", "zipkin"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "http/protobuf"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "999999", "max_export_batch_size"),
    ],
)
async def test_what_cannot_be_met_is_said(monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str) -> None:
    """And costs the traces, not the gateway."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    monkeypatch.setenv(name, value)
    with capture_logs() as lines:
        async with open_tracing("http") as tracing:
            assert tracing is None
    (line,) = lines
    assert line["event"] == "tracing_not_started"
    assert told in line["trouble"]


async def test_on(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """It says so once, and ends without a word where there was nothing to send."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    with capture_logs() as lines, caplog.at_level(logging.WARNING):
        async with open_tracing("http") as tracing:
            assert tracing is not None
    assert [line["event"] for line in lines] == ["tracing_started"]
    assert caplog.messages == []
