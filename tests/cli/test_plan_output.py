"""The screen of a plan."""

import pytest

from estimator import load_model, plan
from gateway.cli.plan_output import plan_lines, print_plan


def screen(*arguments: str, **options: float | str) -> str:
    """All lines for a model and a GPU."""
    name, *gpu = arguments
    return "\n".join(plan_lines(plan(load_model(name), *gpu, **options)))  # type: ignore[arg-type]


def test_what_does_not_fit_says_why_and_what_to_do() -> None:
    """405B in 16 bits on one node."""
    text = screen("llama-3.1-405b", "H100", gpus=8)
    assert "DOES NOT FIT: weights of 94.5 GiB per GPU exceed its 79.2 GiB" in text
    assert "GiB too many" in text
    assert "To make it fit:" in text
    assert "--quant fp8  " in text


def test_the_rule_of_thumb_is_judged() -> None:
    """169 GB are not two A100."""
    text = " ".join(screen("llama-3.1-70b", "A100", tp=2).split())
    assert "169 GB, so 3 x A100 80GB (2 of them: 160 GB)" in text
    assert "too little here" in text
    assert "too much here" in " ".join(screen("llama-3.1-70b", "H200", tp=2, max_model_len=2048).split())


def test_predictions_have_bounds() -> None:
    """As do the requests that follow from them."""
    text = screen("llama-3.1-8b", "H100")
    assert "predicted: " in text
    assert "low to high" in text
    assert "at most, by memory bandwidth" in text


def test_limits_of_sequences_are_marked() -> None:
    """They are not memory's."""
    text = screen("llama-3.1-8b", "H100", max_num_seqs=8)
    assert "8!" in text
    assert "stopped by --max-num-seqs 8, not by memory" in text


def test_layouts_come_first() -> None:
    """With the smallest of each way to keep the weights, and those just too small."""
    text = screen("llama-3.1-70b")
    assert text.startswith("meta-llama/Meta-Llama-3.1-70B: least GPU memory that holds one request of 131,072 tokens")
    for words in (
        "auto, 16-bit",
        "awq",
        "Too small, for instance",
        "with weights auto:",
        "least memory of all layouts",
    ):
        assert words in text


def test_copies_engines_and_encoders() -> None:
    """Each in words."""
    assert ", 4 copies of it" in screen("llama-3.1-8b", "H100", gpus=8, tp=2)
    assert "sglang, weights 16-bit" in screen("llama-3.1-8b", "H100", engine="sglang")
    encoder = screen("BAAI/bge-m3", "L4")
    assert "FITS" in encoder
    assert "Requests at once" not in encoder


@pytest.mark.parametrize(("gpu", "gpus"), [("H100", 1), ("T4", 1), ("L4", 8), ("RTX 3060", 1)])
def test_lines_fit_most_terminals(gpu: str, gpus: int) -> None:
    """Within 100 characters; the bar is as long whatever it shows."""
    lines = screen("llama-3.1-8b", gpu, gpus=gpus).splitlines()
    assert max(len(line) for line in lines) <= 100
    assert len(next(line for line in lines if line.startswith("["))) == 62


def test_it_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """To standard output."""
    print_plan(plan(load_model("llama-3.1-8b"), "H100"))
    assert "Each GPU: 79.2 GiB" in capsys.readouterr().out


def test_a_log_may_stand_for_the_gpu() -> None:
    """Its memory is all that is known of it: no speed, no name."""
    log = (
        "Loading model weights took 14.9888 GB\n"
        "the current vLLM instance can use total_gpu_memory (79.18GiB) x gpu_memory_utilization (0.90)\n"
        "model weights take 14.99GiB; non_torch_memory takes 0.13GiB; PyTorch activation peak memory takes 4.76GiB; "
        "the rest of the memory reserved for KV Cache is 51.38GiB."
    ).splitlines()
    text = "\n".join(plan_lines(plan(load_model("llama-3.1-8b"), startup_log=log)))
    assert "on 1 x GPU of the log" in text
    assert "FITS (KV pool as the engine states it)" in text
    assert "activations 4.8*, libraries 0.1*" in text
    assert "* measured: stated by the engine's start-up log" in text
    assert "Tokens/s" not in text
