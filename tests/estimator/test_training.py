"""Components of training memory."""

from dataclasses import replace

import pytest
from hypothesis import given, settings, strategies as st

from estimator import EstimatorError, load_model
from estimator.training import OPTIMIZERS, Training, adapter_params, fewest_gpus, training_memory

LLAMA = load_model("llama-3.1-8b")
PARAMS = 8_030_261_248


def test_mixed_precision_takes_16_bytes_a_parameter() -> None:
    """2 of weights, 2 of gradients, 4 of copies, 8 of AdamW; half of it in pure 16 bits."""
    assert training_memory(LLAMA, Training()).states == 16 * PARAMS
    assert training_memory(LLAMA, Training(mixed=False)).states == 8 * PARAMS
    assert training_memory(LLAMA, Training(optimizer="sgd", mixed=False)).states == 4 * PARAMS


@pytest.mark.parametrize(("stage", "states"), [(0, 16), (1, 4 + 12 / 8), (2, 2 + 14 / 8), (3, 16 / 8)])
def test_stages_divide_what_the_paper_says(stage: int, states: float) -> None:
    """ZeRO on eight GPUs."""
    found = training_memory(LLAMA, Training(zero=stage, gpus=8))
    assert found.states == pytest.approx(states * PARAMS)
    assert (found.gathered > 0) == (stage == 3)


def test_adapters_are_what_libraries_count() -> None:
    """Rank 16 on all seven matrices of Llama 3.1 8B: 41,943,040 parameters."""
    assert adapter_params(LLAMA, 16) == 41_943_040
    lora = training_memory(LLAMA, Training("lora"))
    assert lora.trained_params == 41_943_040
    assert lora.weights == 2 * PARAMS + 2 * 41_943_040
    assert lora.optimizer == 8 * 41_943_040


@pytest.mark.parametrize("name", ["deepseek-ai/DeepSeek-R1", "Qwen/Qwen3-30B-A3B", "Qwen/Qwen3-Next-80B-A3B-Instruct"])
def test_adapters_of_other_architectures_are_few(name: str) -> None:
    """Experts have none."""
    model = load_model(name)
    assert 0 < adapter_params(model, 16) < 0.01 * sum(part.params for part in model.parts)


def test_qlora_keeps_the_base_in_4_bits() -> None:
    """Embeddings in 16: 5.7 GB for 8B."""
    found = training_memory(LLAMA, Training("qlora"))
    assert (found.weights - 2 * found.trained_params) / 1e9 == pytest.approx(5.7, abs=0.1)


def test_a_quantised_checkpoint_is_trained_in_16_bits() -> None:
    """Its own 8 bits are for serving."""
    model = load_model("deepseek-ai/DeepSeek-R1")
    params = sum(part.params for part in model.parts if not part.extra)
    assert training_memory(model, Training()).states == pytest.approx(16 * params)


def test_activations() -> None:
    """32 layers of 2 bytes and one of 34, or 32 of 34; logits of 8 bytes a word."""
    tokens = 3 * 1024
    with_ = training_memory(LLAMA, Training(batch=3, sequence_tokens=1024))
    without = training_memory(LLAMA, Training(batch=3, sequence_tokens=1024, checkpointing=False))
    assert with_.activations == tokens * 4096 * (32 * 2 + 34)
    assert without.activations == tokens * 4096 * 32 * 34
    assert with_.logits == tokens * 128_256 * 8
    assert with_.total == sum(size for _, size in with_.terms)


def test_gpus_that_are_enough() -> None:
    """Powers of two; None where activations alone are too much."""
    assert fewest_gpus(LLAMA, Training(), 80e9) == 2
    assert fewest_gpus(LLAMA, Training("qlora"), 24e9) == 1
    assert fewest_gpus(LLAMA, Training(sequence_tokens=131_072, checkpointing=False), 80e9) is None


@given(st.sampled_from(sorted(OPTIMIZERS)), st.integers(0, 3), st.integers(1, 64), st.booleans())
@settings(deadline=None)
def test_sharing_never_costs_states(optimizer: str, zero: int, gpus: int, mixed: bool) -> None:
    """More GPUs or a higher stage keep no more on each."""
    one = training_memory(LLAMA, Training("full", optimizer, mixed, zero=zero, gpus=gpus))
    more = training_memory(LLAMA, Training("full", optimizer, mixed, zero=zero, gpus=gpus + 1))
    higher = training_memory(LLAMA, Training("full", optimizer, mixed, zero=min(3, zero + 1), gpus=gpus))
    assert more.states <= one.states * (1 + 1e-12)
    assert higher.states <= one.states * (1 + 1e-12)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (Training("half"), "Training 'half' is not known: use one of full, lora, qlora."),
        (Training(optimizer="adm"), "Optimiser 'adm' is not known"),
        (Training(batch=0), "batch is 0"),
        (Training(gpus=-1), "gpus is -1"),
        (Training(rank=0), "rank is 0"),
        (Training(zero=4), "zero is 4"),
        (Training(sequence_tokens=200_000), "sequence_tokens is 200,000"),
    ],
)
def test_mistakes(how: Training, words: str) -> None:
    """The field and its value."""
    with pytest.raises(EstimatorError) as error:
        training_memory(LLAMA, how)
    assert words in str(error.value)


def test_a_model_without_a_width_cannot_be_trained_on_paper() -> None:
    """Activations follow from it."""
    with pytest.raises(EstimatorError, match="names no hidden_size or no vocab_size"):
        training_memory(replace(LLAMA, hidden_size=0), Training())
