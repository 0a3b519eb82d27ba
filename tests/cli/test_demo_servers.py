"""The demo's servers start together, and none of them outlives the demo."""

import asyncio
import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from gateway.cli import demo_servers
from gateway.cli.demo_servers import ServerError, configuration, serving
from gateway.config import load_config


def answers(url: str) -> bool:
    """Whether anybody listens there."""
    parts = urlsplit(url)
    with socket.socket() as client:
        return client.connect_ex((parts.hostname or "", parts.port or 0)) == 0


@pytest.mark.timeout(60)
async def test_a_taken_port_is_replaced_and_everything_ends_with_the_block(tmp_path: Path) -> None:
    """A server that ends before is noticed."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with serving(tmp_path, port, 0) as stage:
            urls = [stage.api_url, stage.admin_url, *stage.engine_urls.values()]
            assert stage.notes == [f"Port {port} is taken here; the demo uses a free one instead."]
            assert str(port) not in stage.api_url
            assert [answers(url) for url in urls] == [True] * 4
            config = await asyncio.to_thread(load_config, stage.config)
            assert config.admission.queue.requests_max == demo_servers.QUEUE_MAX
            stage.servers[0].process.kill()
            assert (await stage.ended()).name == "large"
    assert [answers(url) for url in urls] == [False] * 4
    assert all(server.process.returncode is not None for server in stage.servers)


@pytest.mark.timeout(60)
async def test_a_server_that_does_not_start_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its own words say why; the one that did start is ended."""
    monkeypatch.setattr(demo_servers, "KV_TOKENS", {"large": 4096, "tiny": 1})
    with pytest.raises(ServerError, match=r"(?s)'tiny' did not start\.\n  .*every limit"):
        async with serving(tmp_path, 0, 0):
            pass


async def test_a_server_that_ignores_sigterm_is_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It says that it serves, so it has its signal handler by then."""
    monkeypatch.setattr(demo_servers, "STOP_MAX_S", 0.05)
    program = 'trap "" TERM; echo "{}"; while :; do sleep 1; done'
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", program, stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    server = demo_servers.Server("stubborn", process, tmp_path / "log")
    assert await server.facts() == {}
    await server.stop()
    assert process.returncode == -9


def test_the_gateway_s_queue_is_short() -> None:
    settings = configuration(1, 2, {"a": "http://127.0.0.1:3"})
    assert settings["backends"] == [{"name": "a", "url": "http://127.0.0.1:3"}]
    assert settings["listen"] == {"host": "127.0.0.1", "port": 1, "admin_host": "127.0.0.1", "admin_port": 2}
