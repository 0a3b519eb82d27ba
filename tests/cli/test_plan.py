"""`kvgate plan` as it is typed."""

import json
from pathlib import Path

import pytest

from tests.cli.command import kvgate

LOG = """
Initializing a V1 LLM engine (v0.11.1) with config
Model loading took 14.99 GiB memory and 3.1 seconds
Available KV cache memory: 51.38 GiB
GPU KV cache size: 420,880 tokens
"""


def test_a_plan_fits_a_screen(capsys: pytest.CaptureFixture[str]) -> None:
    """Bar, concurrency, ceilings, advice, host."""
    done = kvgate(capsys, "plan", "llama-3.1-70b", "--gpu", "H100-80GB", "--tp", 4)
    assert (done.code, done.err) == (0, "")
    for words in ("4 x H100 80GB (tp 4", "FITS", "weights", "KV pool", "131,072", "--kv-dtype fp8", "Host:", "Rule of"):
        assert words in done.out
    assert "\x1b" not in done.out
    assert len(done.out.splitlines()) <= 40


def test_json_has_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    """One object."""
    done = kvgate(capsys, "plan", "llama-3.1-405b", "--gpu", "H100", "--gpus", 8, "--quant", "fp8", "--json")
    answer = json.loads(done.out)
    assert (answer["fits"], answer["gpus"], answer["tp"], answer["layouts"]) == (True, 8, 8, None)
    assert answer["max_concurrency"] > 1


def test_every_option_arrives(capsys: pytest.CaptureFixture[str]) -> None:
    """In the plan that comes back."""
    done = kvgate(
        capsys, "plan", "llama-3.1-8b", "--gpu", "H200", "--gpus", 4, "--tp", 1, "--pp", 2, "--dtype", "float16",
        "--quant", "none", "--kv-dtype", "fp8", "--max-model-len", 8192, "--max-num-seqs", 32,
        "--max-num-batched-tokens", 4096, "--gpu-memory-utilization", 0.5, "--engine", "vllm",
        "--engine-version", "0.22.1", "--enforce-eager", "--json",
    )  # fmt: skip
    answer = json.loads(done.out)
    assert (answer["gpus"], answer["copies"], answer["tp"], answer["pp"]) == (4, 2, 1, 2)
    assert (answer["kv_dtype"], answer["context_tokens"], answer["engine_version"]) == ("fp8", 8192, "0.22.1")
    assert (answer["max_num_seqs"], answer["max_num_batched_tokens"]) == (32, 4096)
    assert answer["budget_bytes"] == pytest.approx(0.5 * answer["gpu_bytes"])
    assert answer["terms_per_gpu"]["CUDA graphs"]["likely"] == 0


def test_a_log_replaces_predictions(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """And is marked."""
    log = tmp_path / "vllm.log"
    log.write_text(LOG)
    done = kvgate(capsys, "plan", "llama-3.1-8b", "--gpu", "H100", "--startup-log", log)
    assert done.code == 0
    assert "15.0 GiB  measured" in done.out
    assert "51.4 GiB  measured" in done.out


def test_training(capsys: pytest.CaptureFixture[str]) -> None:
    """Components, and the table people know."""
    done = kvgate(capsys, "plan", "llama-3.1-8b", "--training", "qlora", "--gpu", "L4")
    assert (done.code, "FITS on L4" in done.out) == (0, True)
    answer = json.loads(
        kvgate(
            capsys, "plan", "llama-3.1-8b", "--training", "full", "--gpus", 8, "--zero", 2, "--pure-16bit",
            "--no-checkpointing", "--optimizer", "sgd", "--batch", 2, "--sequence-tokens", 512, "--json",
        ).out
    )  # fmt: skip
    assert answer["training"] == {
        "method": "full", "optimizer": "sgd", "mixed": False, "batch": 2, "sequence_tokens": 512,
        "checkpointing": False, "zero": 2, "gpus": 8, "rank": 16,
    }  # fmt: skip
    assert "3,250" in kvgate(capsys, "plan", "--training-table").out
    assert len(json.loads(kvgate(capsys, "plan", "--training-table", "--json").out)["cells"]) == 9


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["no-such-model", "--gpu", "H100"], 1, "'no-such-model' is no file"),
        (["llama-3.1-8b", "--gpu", "H10O"], 1, "did you mean H100 80GB"),
        (["llama-3.1-8b", "--gpu", "H100", "--tp", "3"], 1, "tp 3 does not divide the 32 attention heads"),
        (["llama-3.1-8b", "--gpu", "H100", "--pp", "64"], 1, "pp 64 is more stages than the 32 layers"),
        (["llama-3.1-8b", "--gpu", "H100", "--gpus", "5", "--tp", "2"], 1, "gpus is 5"),
        (["llama-3.1-8b", "--engine", "tgi"], 1, "Engine 'tgi' is not known"),
        (["llama-3.1-8b", "--engine-version", "latest"], 1, "Engine version 'latest' cannot be read"),
        (["llama-3.1-8b", "--gpu", "H100", "--max-model-len", "999999"], 1, "max_model_len is 999,999"),
        (["llama-3.1-8b", "--gpu", "H100", "--gpu-memory-utilization", "1.5"], 1, "gpu_memory_utilization is 1.5"),
        (["llama-3.1-8b", "--gpu", "H100", "--gpu-memory-utilization", "nan"], 1, "gpu_memory_utilization is nan"),
        (["llama-3.1-8b", "--gpu", "H100", "--kv-dtype", "fp7"], 1, "KV dtype 'fp7' is not known"),
        (["llama-3.1-8b", "--gpu", "H100", "--quant", "q7"], 1, "Quantisation 'q7' is not known"),
        (["llama-3.1-8b", "--gpu", "H100", "--dtype", "int3"], 1, "dtype 'int3' is not known"),
        (["llama-3.1-8b", "--training", "half"], 1, "Training 'half' is not known"),
        (["llama-3.1-8b", "--startup-log", "/no/such/file"], 1, "cannot be read"),
        (["llama-3.1-8b", "--gpu", "H100", "--tp", "0"], 2, "--tp"),
        (["llama-3.1-8b", "--gpu", "H100", "--gpus", "many"], 2, "--gpus"),
        ([], 2, "give a model"),
    ],
)
def test_mistakes_end_with_a_sentence(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, words: str
) -> None:
    """Exit 1 for a problem found, 2 for wrong usage, never a traceback."""
    done = kvgate(capsys, "plan", *arguments)
    assert done.code == code
    assert words in " ".join(done.err.replace("│", " ").split())
    assert "Traceback" not in done.err
    if code == 1:
        assert len(done.err.splitlines()) == 1
