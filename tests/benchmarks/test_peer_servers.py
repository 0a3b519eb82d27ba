"""How gateways are launched and watched; the mock engine stands in for one."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from benchmarks import native_load, peer_launch
from benchmarks.native_load import mock_engine
from benchmarks.peer_launch import KEY, Launch, Site
from benchmarks.peer_servers import PEERS, Peer, running
from gateway.config.load import load_config


def as_peer(binary: Path) -> Peer:
    """The mock engine, which needs none behind it."""
    return Peer("mock", "C", lambda site: Launch([str(binary), "--port", str(site.port)]), binary)


def site(folder: Path) -> Site:
    return Site(folder, 8001, 8002, (9001, 9002))


@pytest.mark.usefixtures("built")
def test_one_that_runs_shows_what_it_costs() -> None:
    """It serves, has used CPU, and has memory; afterwards it is gone."""
    with running(as_peer(native_load.BUILD / "mock_engine"), []) as server:
        assert server.pids()[0] == server.process.pid
        assert server.cpu_us() > 0
        assert server.memory_bytes() > 0
    assert server.process.returncode is not None


def test_one_that_ends_at_once_is_told_with_its_words() -> None:
    """The end of its log says why."""
    failing = Peer("f", "C", lambda _: Launch([sys.executable, "-c", "exit('no licence')"]), Path(sys.executable))
    with pytest.raises(RuntimeError, match="no licence"), running(failing, []):
        pass


@pytest.mark.usefixtures("built")
def test_processes_that_it_starts_count_too() -> None:
    """A shell in front of it is one of two."""
    binary = native_load.BUILD / "mock_engine"
    shell = Peer("s", "C", lambda site: Launch(["/bin/sh", "-c", f"{binary} --port {site.port}; true"]), binary)
    with running(shell, []) as server:
        assert len(server.pids()) == 2


def test_our_configuration_is_one_that_we_take(tmp_path: Path) -> None:
    """Production's defaults: a tenant with a key, no journal, an engine for each that was named."""
    launch = peer_launch.kvgate(site(tmp_path))
    config = load_config(Path(launch.command[-1]))
    assert [backend.url for backend in config.backends] == ["http://127.0.0.1:9001", "http://127.0.0.1:9002"]
    assert (config.listen.port, config.listen.admin_port) == (8001, 8002)
    assert [tenant.name for tenant in config.tenants] == ["team"]
    assert config.journal.path is None


@pytest.mark.parametrize("name", ["envoy.json", "litellm.yaml"])
def test_configurations_of_others_are_well_formed(tmp_path: Path, name: str) -> None:
    """Both engines are in them, and the key where one is asked for."""
    launches: dict[str, Callable[[Site], Launch]] = {
        "envoy.json": peer_launch.envoy,
        "litellm.yaml": peer_launch.litellm,
    }
    launches[name](site(tmp_path))
    text = (tmp_path / name).read_text()
    read = json.loads(text) if name.endswith("json") else yaml.safe_load(text)
    assert read
    assert "9001" in text
    assert "9002" in text
    assert (KEY in text) == (name == "litellm.yaml")


@pytest.mark.parametrize("name", sorted(PEERS))
def test_each_is_told_its_port_and_its_engines(tmp_path: Path, name: str) -> None:
    """On its command line, in its files, or in what clients send."""
    if isinstance(PEERS[name].binary, str) and not PEERS[name].is_installed:
        pytest.skip("its command is not here")
    launch = PEERS[name].launch(site(tmp_path))
    files = " ".join(path.read_text() for path in tmp_path.iterdir())
    told = " ".join([*launch.command, files, *PEERS[name].headers(site(tmp_path)).values()])
    assert "8001" in told
    assert "9001" in told


@pytest.mark.usefixtures("built")
def test_a_whole_request_goes_through_before_one_counts_as_ready() -> None:
    """With what a client of it has to send."""
    with mock_engine() as engine, running(as_peer(native_load.BUILD / "mock_engine"), [engine.port]) as server:
        assert server.site.engine_ports == (engine.port,)
        assert server.headers == {}
