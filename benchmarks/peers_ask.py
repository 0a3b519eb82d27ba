"""Asks other estimators, in an environment that has them: questions as JSON on standard input, answers on the other.

Started by `peers_memory.py` with the other environment's Python. Imports nothing of KVGate.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

Question = dict[str, Any]
Answer = dict[str, Any]
"""`kv_bytes_per_token`, `weights_gib`, `kv_gib`, each per GPU, as far as it says; else `error`."""

_GIB = 2**30
_TOKENS = 2**20
_FP8 = ("fp8", "fp8_e4m3", "fp8_e5m2", "fp8_inc", "fp8_ds_mla")
_BACKENDS = {"vllm": ("vllm", "of_total"), "sglang": ("sglang", "of_total"), "tensorrt-llm": ("trtllm", "of_free")}
_NEWEST = "current"
"""The engine's version that its figures are for: it has them for two or three only."""
_GEMM = {"awq": "int4_wo", "gptq": "int4_wo", "int4": "int4_wo", "gptq-int8": "int8_wo", "fp8": "fp8", "nvfp4": "nvfp4"}


def ask_hf_mem(question: Question) -> Answer:
    """Its cost of a token is for the whole model: divided by the ranks here, which it does not know of."""
    rules = importlib.import_module("hf_mem.safetensors.kv_cache")
    config = question["config"]
    config = {**config, **config["text_config"]} if "text_config" in config else dict(config)
    if question["quantization"]:  # it would refuse; the KV cache does not depend on it
        config.pop("quantization_config", None)
    wanted = question["kv_dtype"] if question["kv_dtype"] in _FP8 else None
    kind = rules.resolve_kv_cache_dtype(config, wanted, SimpleNamespace(components={}), question["model"])
    size = rules.compute_safetensors_kv_cache_size(config, kind, _TOKENS)
    return {"kv_bytes_per_token": size / _TOKENS / question["tp"] / question["pp"]}


def ask_aiconfigurator(question: Question) -> Answer:
    """Its own model of the engine where it has one; else, as it does itself, 80 % of what weights leave."""
    memory = importlib.import_module("aiconfigurator_core.sdk.memory")
    if question["engine"] not in _BACKENDS:
        raise ValueError(f"it has no engine {question['engine']}")
    backend, kind = _BACKENDS[question["engine"]]
    gemm = _GEMM.get(question["quantization"])
    ranks: dict[str, Any] = {"tp_size": question["tp"], "pp_size": question["pp"]}
    ranks |= {"moe_tp_size": question["tp"], "moe_ep_size": 1}
    engine: dict[str, Any] = {
        "max_num_tokens": question["batch_tokens"],
        "max_batch_size": question["batch_sequences"],
        "gemm_quant_mode": gemm,
        "moe_quant_mode": gemm,
        "kvcache_quant_mode": "fp8" if question["kv_dtype"] in _FP8 else None,
    }
    found: Answer = {}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(question["config"]))
        where = (folder, question["system"], backend, _NEWEST)
        with contextlib.suppress(Exception):  # then the other way, below, has to do
            terms = memory.KVCacheEstimator.from_request(*where, **engine, **ranks).breakdown
            found["kv_bytes_per_token"] = terms["kv_size_per_token_bytes"]
            found["weights_gib"] = terms["weights_bytes"] / _GIB
        try:
            pool = memory.estimate_kv_cache(
                *where,
                **engine,
                **ranks,
                memory_fraction_kind=kind,
                memory_fraction_value=question["utilization"],
                gpu_memory_capacity_bytes_override=int(question["memory_bytes"]),
                allow_naive_fallback=True,
            )
        except ValueError as error:
            if not found:
                raise
            return {**found, "why_no_pool": str(error)}
    found.setdefault("kv_bytes_per_token", pool["kv_size_per_token_bytes"])
    return {**found, "kv_gib": pool["total_kv_size_bytes"] / _GIB, "how": pool["source"]}


PEERS: dict[str, Callable[[Question], Answer]] = {"hf-mem": ask_hf_mem, "aiconfigurator": ask_aiconfigurator}


def answer(question: Question) -> dict[str, Answer]:
    """What each of them says."""
    answers: dict[str, Answer] = {}
    for name, ask in PEERS.items():
        try:
            answers[name] = ask(question)
        except Exception as error:  # noqa: BLE001 - theirs may raise anything, and what they cannot do is a result
            lines = str(error).strip().splitlines()
            answers[name] = {"error": f"{type(error).__name__}: {lines[0][:160] if lines else ''}"}
    return answers


def main() -> int:
    """One line in, one line out."""
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        with contextlib.redirect_stdout(sys.stderr):  # they print while they work
            found = answer(json.loads(line))
        print(json.dumps(found), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
