"""Terms that configurations do not give, beside what logs say of them."""

import pytest

from estimator import load_model
from estimator.engine import Batch, engine
from estimator.overhead import Span, overhead

GIB = 2**30


@pytest.mark.parametrize(
    ("name", "version", "batch", "gib"),
    [
        ("openai/gpt-oss-20b", "0.11.1", Batch(8192, 1024), 7.38),
        ("meta-llama/Meta-Llama-3.1-8B", "0.11.1", Batch(8192, 1024), 4.76),
        ("Qwen/Qwen3-32B", "0.11.1", Batch(8192, 1024), 5.64),
        ("meta-llama/Meta-Llama-3.1-8B", "0.6.4", Batch(20_000, 256), 2.07),
        ("meta-llama/Meta-Llama-3.1-8B", "0.6.4", Batch(29_000, 256), 2.99),
        ("facebook/opt-125m", "0.8.3 (V0)", Batch(2048, 256), 0.47),
        ("meta-llama/Meta-Llama-3.1-8B", "0.30.0", Batch(8192, 1024), 1.44),
    ],
)
def test_peak_activations_are_what_logs_say(name: str, version: str, batch: Batch, gib: float) -> None:
    """By the sampler over all sequences, or by one batch's way through the widest layer."""
    found = overhead(load_model(name), engine("vllm", version), batch).activations
    assert found.likely / GIB == pytest.approx(gib, rel=0.06)
    assert found.low <= gib * GIB <= found.high


def test_graphs_count_where_the_version_counts_them() -> None:
    """Since 0.21."""
    model, batch = load_model("llama-3.1-8b"), Batch(2048, 256)
    old, new = (overhead(model, engine("vllm", version), batch) for version in ("0.20.0", "0.21.0"))
    assert old.budgeted == old.activations + old.non_torch
    assert new.budgeted.likely > new.activations.likely + new.non_torch.likely
    assert overhead(model, engine("vllm"), batch, graphs=False).graphs == Span(0, 0, 0)


def test_images_and_several_gpus_cost_more() -> None:
    """And bounds are wider where less is known."""
    batch = Batch(8192, 256)
    text, images = load_model("Qwen/Qwen2.5-7B-Instruct"), load_model("Qwen/Qwen2-VL-7B-Instruct")
    new = engine("vllm", "0.11.0")
    assert overhead(images, new, batch).activations.high > overhead(text, new, batch).activations.high
    assert overhead(text, new, batch, tp=2).non_torch.likely > overhead(text, new, batch).non_torch.likely
    known, guessed = (overhead(text, new, batch, batch_stated=stated).activations for stated in (True, False))
    assert guessed.low < known.low
    assert guessed.likely == known.likely


def test_the_first_architecture_filled_every_sequence_with_images() -> None:
    """Llama 3.2 Vision with 128 sequences: 36.6 GiB."""
    model = load_model("meta-llama/Llama-3.2-11B-Vision")
    found = overhead(model, engine("vllm", "0.6.6"), Batch(65_536, 128)).activations
    assert found.likely / GIB == pytest.approx(36.63, rel=0.05)


def test_spans() -> None:
    """Sums and maxima bound by bound; a measured one has no width."""
    a, b = Span(1, 2, 4), Span(0, 3, 5)
    assert (a + b, a.at_least(b)) == (Span(1, 5, 9), Span(1, 3, 5))
    assert Span.exactly(7).measured
    assert not a.measured
