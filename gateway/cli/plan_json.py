"""The one JSON object of `kvgate plan --json`: stable keys, sizes in bytes."""

from __future__ import annotations

from dataclasses import asdict

from estimator.engine import Engine
from estimator.layouts import Layout, Layouts
from estimator.planning import Plan


def plan_json(found: Plan) -> dict[str, object]:
    """All that the screen shows and more."""
    placement = found.placement
    setup, capacity = placement.setup, placement.capacity
    return {
        "model": placement.model.name,
        "source": placement.model.source,
        "fits": found.fits,
        "why_not": found.why_not,
        "gpu": placement.gpu.name if placement.gpu else None,
        "gpus": placement.gpus * found.copies,
        "copies": found.copies,
        "tp": setup.tp,
        "pp": setup.pp,
        "found_by": found.found_by,
        "engine": setup.engine.name,
        "engine_version": _version(setup.engine),
        "kv_dtype": setup.kv_dtype,
        "context_tokens": capacity.context_tokens,
        "max_num_seqs": capacity.batch.sequences,
        "max_num_batched_tokens": capacity.batch.tokens,
        "gpu_bytes": placement.total_bytes,
        "budget_bytes": capacity.budget,
        "terms_per_gpu": {term.name: {**asdict(term.span), "measured": term.measured} for term in placement.terms()},
        "kv_bytes_per_token_per_gpu": capacity.pool.layout.bytes_per_token,
        "kv_tokens": capacity.pool.tokens,
        "kv_blocks": capacity.pool.blocks,
        "max_concurrency": placement.requests(capacity.context_tokens),
        "concurrency": [asdict(each) for each in found.concurrency],
        "decode": [asdict(each) for each in found.decode],
        "advice": [{**asdict(each), "fits": each.fits} for each in found.advice],
        "rule_of_thumb": {
            **asdict(found.rule),
            "total_gb": found.rule.total_gb,
            "error": found.rule.error,
        },
        "host": asdict(found.host),
        "layouts": _layouts(found.layouts) if found.layouts else None,
        "notes": list(found.notes),
    }


def _version(of: Engine) -> str | None:
    """None where it was not named, and the engine's rules do not differ by it."""
    if of.dated and of.name != "vllm":
        return None
    return ".".join(str(part) for part in of.version)


def _layouts(found: Layouts) -> dict[str, object]:
    return {
        "fitting": [_layout(each) for each in found.fitting],
        "too_small": [asdict(each) for each in found.too_small],
    }


def _layout(each: Layout) -> dict[str, object]:
    placement = each.placement
    pool = placement.capacity.kv_pool
    return {
        "gpu": each.gpu_name,
        "gpus": placement.gpus,
        "tp": placement.setup.tp,
        "pp": placement.setup.pp,
        "quant": each.stored,
        "kv_dtype": each.kv_dtype,
        "memory_gib": each.memory_gib,
        "kv_pool_bytes_per_gpu": asdict(pool),
        "max_concurrency": placement.requests(placement.capacity.context_tokens),
    }
