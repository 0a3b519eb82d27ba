"""The systemd units as files: what they hand over is what the gateway takes."""

from __future__ import annotations

from gateway.config import load_config
from gateway.systemd import NAMES
from tests.deploy.tools import DEPLOY

SOCKETS = {"api": "kvgate.socket", "admin": "kvgate-admin.socket"}


def settings(unit: str) -> dict[str, str]:
    """What a unit sets; of what is set twice, the last."""
    lines = (DEPLOY / "systemd" / unit).read_text("utf-8").splitlines()
    pairs = (line.partition("=") for line in lines if "=" in line and not line.startswith("#"))
    return {key: value for key, _, value in pairs}


def test_the_sockets_are_those_that_the_gateway_knows() -> None:
    """By name, each where the gateway would listen by itself."""
    assert sorted(SOCKETS) == sorted(NAMES)
    listen = load_config(environ={}).listen
    for name, unit in SOCKETS.items():
        socket = settings(unit)
        assert socket["FileDescriptorName"] == name
        assert socket["Service"] == "kvgate.service"
    assert settings(SOCKETS["api"])["ListenStream"] == f"{listen.host}:{listen.port}"
    assert settings(SOCKETS["admin"])["ListenStream"] == f"{listen.admin_host}:{listen.admin_port}"


def test_the_service_waits_for_what_the_gateway_does() -> None:
    """It is told when the gateway is ready, waits for the drain, and does not retry what cannot go well."""
    service = settings("kvgate.service")
    assert service["Type"] == "notify"
    assert service["LimitCORE"] == "0"
    assert service["Sockets"].split() == list(SOCKETS.values())
    assert int(service["TimeoutStopSec"]) > load_config(environ={}).drain_max_s
    assert service["RestartPreventExitStatus"] == "2 78"
    variable, _, _path = service["Environment"].partition("=")
    assert load_config(environ={variable: "/var/lib/kvgate/learned.json"}).state.path
