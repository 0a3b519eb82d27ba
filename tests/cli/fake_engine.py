"""An engine reduced to fixed pages, on a free port of the loopback."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

VLLM = {
    "/metrics": b"# HELP vllm:x x\n"
    b'vllm:cache_config_info{block_size="16",num_gpu_blocks="65"} 1.0\n'
    b'vllm:kv_cache_usage_perc{engine="0"} 0.0\n'
    b'vllm:num_requests_running{engine="0"} 0.0\n'
    b'vllm:num_requests_waiting{engine="0"} 0.0\n',
    "/v1/models": b'{"object":"list","data":[{"id":"tiny","object":"model","max_model_len":512}]}',
}
HOSTED = {"/v1/models": b'{"data":[{"id":"a","context_size":8192},{"id":"b"},{"id":"c"},{"id":"d"}]}'}

HYBRID_METRICS = (
    b'vllm:cache_config_info{block_size="16",num_gpu_blocks="163840",kv_cache_size_tokens="373865",'
    b'kv_cache_max_concurrency="45.63788300835655"} 1.0\nvllm:kv_cache_usage_perc{engine="0"} 0.0\n'
)
"""Gemma 3 27B at 8192 tokens, as real vLLM sizes it."""


def hybrid(model: str) -> dict[str, bytes]:
    """Pages of an engine that serves a model of this name from the pool of `HYBRID_METRICS`."""
    listing = {"data": [{"id": "chat", "root": model, "max_model_len": 8192}]}
    return {"/metrics": HYBRID_METRICS, "/v1/models": json.dumps(listing).encode()}


@contextmanager
def serving(
    pages: Mapping[str, bytes], status: int = 200, posted: list[tuple[Message, bytes]] | None = None
) -> Iterator[str]:
    """Serve these pages and nothing else; gives the base URL. Headers and bodies of POSTs are kept in `posted`."""

    class Pages(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = pages.get(self.path)
            self.send_response(404 if body is None else status)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if posted is not None:
                posted.append((self.headers, body))
            self.do_GET()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name of the base class
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
