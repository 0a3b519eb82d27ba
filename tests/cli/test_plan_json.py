"""The keys of `kvgate plan --json`, which do not change."""

import json

from estimator import load_model, plan
from gateway.cli.plan_json import plan_json

KEYS = (
    "model source fits why_not gpu gpus copies tp pp found_by engine engine_version kv_dtype context_tokens "
    "max_num_seqs max_num_batched_tokens gpu_bytes budget_bytes terms_per_gpu kv_bytes_per_token_per_gpu kv_tokens "
    "kv_blocks max_concurrency concurrency decode advice rule_of_thumb host layouts notes"
)


def test_keys() -> None:
    """With and without a GPU the same."""
    model = load_model("llama-3.1-8b")
    one, all_ = plan_json(plan(model, "H100")), plan_json(plan(model))
    assert " ".join(one) == " ".join(all_) == KEYS
    assert one["layouts"] is None
    assert json.loads(json.dumps(all_)) == all_


def test_layouts() -> None:
    """Each with its split and memory, least first; and what is too small with the reason."""
    found = plan_json(plan(load_model("llama-3.1-70b")))["layouts"]
    assert isinstance(found, dict)
    fitting = found["fitting"]
    assert [each["memory_gib"] for each in fitting] == sorted(each["memory_gib"] for each in fitting)
    assert set(fitting[0]) == {
        "gpu", "gpus", "tp", "pp", "quant", "kv_dtype", "memory_gib", "kv_pool_bytes_per_gpu", "max_concurrency",
    }  # fmt: skip
    assert all(each["reason"] for each in found["too_small"])


def test_terms_have_bounds() -> None:
    """In bytes on each GPU."""
    terms = plan_json(plan(load_model("llama-3.1-8b"), "H100"))["terms_per_gpu"]
    assert isinstance(terms, dict)
    assert set(terms) == {"weights", "KV pool", "activations", "libraries", "CUDA graphs"}
    assert all(each["low"] <= each["likely"] <= each["high"] for each in terms.values())


def test_a_version_that_nobody_named() -> None:
    """vLLM's is assumed, and matters; others' is not known."""
    model = load_model("llama-3.1-8b")
    assert plan_json(plan(model, "H100"))["engine_version"] == "0.32.0"
    assert plan_json(plan(model, "H100", engine="sglang"))["engine_version"] is None
    assert plan_json(plan(model, "H100", engine="sglang", engine_version="0.5.3"))["engine_version"] == "0.5.3"
