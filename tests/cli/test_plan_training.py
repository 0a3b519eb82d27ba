"""What `kvgate plan --training` prints."""

import pytest

from estimator import EstimatorError, load_model
from estimator.training import Training
from gateway.cli.plan_training import print_table, print_training, table_json, training_json, training_plan

LLAMA = load_model("llama-3.1-8b")


def test_a_plan_names_gpus_that_are_enough() -> None:
    """Of one kind or of all, least memory first."""
    one = training_plan(LLAMA, Training(), "H100")
    assert [(gpu.name, count) for gpu, count in one.enough] == [("H100 80GB", 2)]
    assert one.fits is False
    every = training_plan(LLAMA, Training(), None)
    assert every.fits is None
    sizes = [gpu.memory_gib * count for gpu, count in every.enough]
    assert sizes == sorted(sizes)
    with pytest.raises(EstimatorError, match="is not in the catalogue"):
        training_plan(LLAMA, Training(), "nothing")


def test_the_screen(capsys: pytest.CaptureFixture[str]) -> None:
    """Components with both units, what is enough, and how far the known table is off."""
    print_training(training_plan(LLAMA, Training(gpus=8, zero=3), "H100"))
    text = capsys.readouterr().out
    for words in ("8 GPUs, ZeRO stage 3", "FITS on H100 80GB", "optimiser", "GiB", "GB", "2 x H100", "prints 60 GB"):
        assert words in text


def test_what_is_never_enough_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """Activations are not shared out."""
    how = Training(sequence_tokens=131_072, checkpointing=False)
    print_training(training_plan(LLAMA, how, "H100"))
    assert "activations alone do not fit" in capsys.readouterr().out


def test_json() -> None:
    """Terms add up to the total; other models have no note."""
    found = training_json(training_plan(load_model("Qwen/Qwen3-8B"), Training("lora"), None))
    terms = found["bytes_per_gpu"]
    assert isinstance(terms, dict)
    assert sum(terms.values()) == found["total_bytes_per_gpu"]
    assert found["notes"] == []


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    """Nine cells with their difference."""
    print_table()
    text = capsys.readouterr().out
    for cell in ("60", "500", "3,250", "160", "950", "48", "250", "+13%", "-14%"):
        assert cell in text
    assert "llama31" in str(table_json()["source"])
