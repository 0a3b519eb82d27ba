"""Runs the real llama.cpp HTTP server out of the xllamacpp wheel: `python -m tests.engines.serve_llamacpp --help`."""

from __future__ import annotations

import argparse
import signal

import xllamacpp


def main() -> None:
    """Serves until SIGTERM or SIGINT."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--model", required=True)
    arguments.add_argument("--alias", required=True)
    arguments.add_argument("--port", type=int, required=True)
    arguments.add_argument("--context-tokens", type=int, required=True)
    arguments.add_argument("--slots", type=int, required=True)
    arguments.add_argument("--unified", action="store_true", help="all slots share one KV pool")
    given = arguments.parse_args()
    # Blocked before the server starts its threads, which inherit the mask: the signal is left for `sigwait`.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    server = xllamacpp.Server(_parameters(given))
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    del server


def _parameters(given: argparse.Namespace) -> xllamacpp.CommonParams:
    parameters = xllamacpp.CommonParams()
    parameters.model.path = given.model
    parameters.model_alias = {given.alias}
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = given.port
    parameters.n_ctx = given.context_tokens
    parameters.n_parallel = given.slots
    parameters.kv_unified = given.unified
    parameters.cpuparams.n_threads = 1
    parameters.warmup = False
    parameters.endpoint_metrics = parameters.endpoint_slots = parameters.endpoint_props = True
    return parameters


if __name__ == "__main__":
    main()
