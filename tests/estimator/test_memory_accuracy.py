"""The benchmarks that compare with logs and with vLLM's answers: what they read, print and exit with."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import kv_truth, memory_accuracy
from benchmarks.memory_prediction import QUANTITIES, predict
from benchmarks.memory_rows import read_row

EMPTY: dict[str, Any] = dict.fromkeys(
    (
        "engine_version",
        "gpu",
        "quant",
        "kv_dtype",
        "max_model_len",
        "gpu_memory_utilization",
        "block_size",
        "weights_gib",
        "kv_gib",
        "kv_tokens",
        "kv_blocks",
        "max_concurrency",
        "graph_gib",
        "derived_kv_bytes_per_token",
    )
)
HYBRID = EMPTY | {
    "id": "hybrid", "engine": "vllm", "engine_version": "0.11.0 (V1)", "model": "google/gemma-3-27b-it", "tp": 1,
    "pp": 1, "gpu": "AMD (ROCm, 192GB-class)", "max_model_len": 4096, "block_size": 16, "weights_gib": 51.7891,
    "kv_gib": 109.86, "kv_tokens": 205_696, "kv_blocks": 89_994, "max_concurrency": 50.05,
    "derived_kv_bytes_per_token": 573_473.85, "other": {"max_num_batched_tokens": 8192},
}  # fmt: skip
TERMS = EMPTY | {
    "id": "terms", "engine": "vllm", "engine_version": "0.11.1", "model": "meta-llama/Llama-3.1-8B-Instruct", "tp": 1,
    "pp": 1, "gpu": "H100 80GB", "max_model_len": 16_000, "gpu_memory_utilization": 0.9, "weights_gib": 14.99,
    "kv_gib": 51.38, "other": {"total_gpu_gib": 79.18, "peak_activation_gib": 4.76, "non_torch_gib": 0.13},
}  # fmt: skip
LLAMA = EMPTY | {
    "id": "llama", "engine": "llama.cpp", "model": "Meta Llama 3.1 8B Instruct [llama]", "tp": 1, "pp": 1,
    "quant": "Q4_K - Medium", "max_model_len": 2048, "weights_gib": 4.58, "kv_gib": 0.25, "kv_tokens": 2048,
    "derived_kv_bytes_per_token": 131_072.0,
    "other": {"arch": "llama", "n_layer": 32, "n_embd_k_gqa": 1024, "n_embd_v_gqa": 1024, "n_ctx": 2048,
              "k_type": "f16", "v_type": "f16", "n_ubatch": "512", "flash_attn": "0", "params": "8.03 B",
              "swa_split": False},
}  # fmt: skip
HEADER = LLAMA | {"id": "header", "model": "mine [llama]", "other": LLAMA["other"] | {"params": "8.10 B"}}
UNKNOWN = TERMS | {"id": "unknown", "model": "nobody/knows-this-7b"}
FOREIGN = TERMS | {"id": "foreign", "engine": "tgi"}


def test_a_hybrid_is_exact_to_the_block() -> None:
    """Tokens and concurrency from the logged pool, blocks to its two decimals; weights within one percent."""
    found = predict(read_row(HYBRID, {}))
    assert (found.kv_tokens, round(found.max_concurrency or 0, 2)) == (205_696, 50.05)
    assert found.kv_blocks == pytest.approx(89_994, abs=5)
    assert found.kv_bytes_per_token == pytest.approx(573_473, rel=0.0005)
    assert found.weights_gib == pytest.approx(51.79, rel=0.01)
    assert (found.kv_gib_low or 0) < 109.86 < (found.kv_gib_high or 0)


def test_logged_terms_take_the_place_of_predicted_ones() -> None:
    """What is left of the budget is the log's own pool."""
    found = predict(read_row(TERMS, {}))
    assert found.kv_gib_log_terms == pytest.approx(51.38, abs=0.01)
    assert found.kv_gib_config == pytest.approx(51.38, rel=0.03)


@pytest.mark.parametrize("raw", [LLAMA, HEADER], ids=["catalogue", "header"])
def test_llama_cpp_is_exact(raw: dict[str, Any]) -> None:
    """By the catalogue, or by the file's header alone."""
    found = predict(read_row(raw, {}))
    assert (found.kv_gib, found.kv_tokens, found.kv_bytes_per_token) == (0.25, 2048, 131_072)
    assert found.weights_gib == pytest.approx(4.58, rel=0.02)


@pytest.mark.parametrize("raw", [HYBRID, TERMS, LLAMA, HEADER, UNKNOWN], ids=lambda raw: raw["id"])
def test_nothing_is_missing_without_a_reason(raw: dict[str, Any]) -> None:
    """Each quantity is there, or says why it is not."""
    found = predict(read_row(raw, {}))
    for name in QUANTITIES:
        assert (getattr(found, name) is None) == (name in found.reasons), name


def test_the_table_and_the_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every row has its prediction; what cannot be read is named."""
    rows = [HYBRID, TERMS, LLAMA, HEADER, UNKNOWN, FOREIGN]
    (tmp_path / "logs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert memory_accuracy.main([str(tmp_path / "logs.jsonl"), "--rows", str(tmp_path / "out.jsonl")]) == 0
    printed = capsys.readouterr().out
    assert "KV GiB from the log's terms" in printed
    assert "covers the log in 2 of 2 rows" in printed
    assert "unknown weights_gib: model 'nobody/knows-this-7b' is neither in the catalogue" in printed
    assert "foreign: Engine 'tgi' is not known" in printed
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert sorted(row["id"] for row in written) == sorted(row["id"] for row in rows)


def test_vllms_answers_are_compared_row_by_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 1 where one differs; rows without an answer or a configuration are skipped by name."""
    config = {"num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8}
    (tmp_path / "tiny.json").write_text(json.dumps({**config, "max_position_embeddings": 8192}))
    row = {"file": "tiny.json", "ok": True, "bytes": 2**37, "tp": 1, "kv_dtype": "auto", "block_size": 16}
    good = {**row, "max_model_len": 8192, "num_blocks": 65_536, "kv_cache_size_tokens": 1_048_576}
    rows = [good, {"file": "tiny.json", "ok": False, "error": "none"}, {**good, "file": "gone.json"}]
    path = tmp_path / "truth.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    assert kv_truth.main([str(path), "--configs", str(tmp_path)]) == 0
    assert "1 rows equal, 0 not, 2 skipped" in capsys.readouterr().out
    path.write_text(json.dumps({**good, "num_blocks": 7}) + "\n" + json.dumps({**good, "tp": 3}) + "\n")
    assert kv_truth.main([str(path), "--configs", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert "different  tiny.json" in printed
    assert "refused    tiny.json tp3 auto: tp 3 does not divide" in printed
