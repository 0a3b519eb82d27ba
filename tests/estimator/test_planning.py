"""Plans, and the questions that people come with."""

import pytest
from hypothesis import given, settings, strategies as st

import estimator
from estimator import EstimatorError, Plan, load_model, plan

GIB = 2**30
LOG = """
Initializing a V1 LLM engine (v0.11.1) with config
Model loading took 14.99 GiB memory and 3.1 seconds
Available KV cache memory: 51.38 GiB
GPU KV cache size: 420,880 tokens
Maximum concurrency for 131,072 tokens per request: 3.21x
"""


def test_the_object_behind_the_command() -> None:
    """As the library promises it."""
    found = estimator.plan(load_model("meta-llama/Llama-3.1-70B"), gpu="H100-80GB", tp=4)
    assert isinstance(found, Plan)
    assert (found.fits, found.placement.gpus, found.copies, found.found_by) == (True, 4, 1, "asked for")
    assert [each.tokens for each in found.concurrency] == [1024, 4096, 16_384, 131_072]
    assert len(found.decode) == 4
    assert found.layouts is None


def test_70b_in_16_bits() -> None:
    """Four H100 for the full context; two hold it only at some 25,000 tokens."""
    model = load_model("llama-3.1-70b")
    found = plan(model, "H100")
    assert (found.placement.setup.tp, found.found_by) == (4, "the fewest that fit")
    two = plan(model, "H100", gpus=2)
    assert not two.fits
    assert "hold one request of" in two.why_not
    assert plan(model, "H100", gpus=2, max_model_len=16_384).fits


def test_405b_on_one_node_of_eight_h100() -> None:
    """No in 16 bits, yes in 8."""
    model = load_model("llama-3.1-405b")
    wide = plan(model, "H100", gpus=8, engine_version="0.22")
    assert not wide.fits
    assert "exceed" in wide.why_not
    assert any(each.change == "--quant fp8" and each.fits for each in wide.advice)
    assert plan(model, "H100", gpus=8, quant="fp8", engine_version="0.22").fits


def test_70b_in_4_bits_on_two_l4() -> None:
    """Not as it comes; with settings of its own and a shorter context."""
    model = load_model("llama-3.1-70b")
    found = plan(model, "L4", gpus=2, quant="awq")
    assert not found.fits
    assert found.advice[0].fits
    set_so = plan(
        model, "L4", gpus=2, quant="awq", kv_dtype="fp8", max_num_seqs=64, enforce_eager=True,
        gpu_memory_utilization=0.95, max_model_len=found.advice[0].context_tokens,
    )  # fmt: skip
    assert set_so.fits


def test_168_gb_are_not_two_a100() -> None:
    """The rule of thumb needs three by its own arithmetic, and four are needed for the full context."""
    found = plan(load_model("llama-3.1-70b"), "A100")
    assert found.placement.gpus == 4
    assert found.rule.gpus == 3
    assert round(found.rule.gb) in {168, 169}


def test_without_a_gpu_the_catalogue_is_looked_through() -> None:
    """The plan is of the smallest that takes weights and KV as they come."""
    found = plan(load_model("llama-3.1-70b"))
    assert found.layouts is not None
    assert found.fits
    assert {each.stored for each in found.layouts.fitting} == {"auto", "fp8", "awq"}
    own = [each for each in found.layouts.fitting if (each.stored, each.kv_dtype) == ("auto", "auto")]
    assert found.placement is own[0].placement
    said = plan(load_model("llama-3.1-70b"), quant="awq", kv_dtype="fp8", tp=2, max_num_seqs=32)
    assert said.layouts is not None
    assert {(each.stored, each.kv_dtype, each.placement.gpus) for each in said.layouts.fitting} == {("awq", "fp8", 2)}


def test_further_gpus_hold_further_copies() -> None:
    """Where tp is said; all of them have to be used."""
    model = load_model("llama-3.1-8b")
    assert plan(model, "H100", gpus=8, tp=2).copies == 4
    with pytest.raises(EstimatorError, match=r"gpus is 8: copies of tp 3 x pp 1"):
        plan(model, "H100", gpus=8, tp=3)


@pytest.mark.parametrize("engine", ["vllm", "sglang", "llamacpp", "trtllm"])
def test_every_engine_has_a_plan(engine: str) -> None:
    """With a pool, advice and a ceiling."""
    found = plan(load_model("llama-3.1-8b"), "H100", engine=engine)
    assert found.fits
    assert found.decode
    assert found.concurrency[0].likely > found.concurrency[-1].likely >= 1
    assert plan(load_model("llama-3.1-8b"), engine=engine).layouts is not None


def test_limits_of_sequences_are_told_apart_from_memory() -> None:
    """Eight run where memory would hold more."""
    first = plan(load_model("llama-3.1-8b"), "H100", max_num_seqs=8).concurrency[0]
    assert (first.likely, first.limited) == (8, True)
    free = plan(load_model("llama-3.1-8b"), "H100", engine="sglang").concurrency[0]
    assert (free.likely > 256, free.limited) == (True, False)
    assert plan(load_model("llama-3.1-8b"), "H100", engine="llamacpp", max_num_seqs=4).concurrency[0].likely == 4
    assert first.kv_likely > 8
    assert first.low <= first.likely <= first.high


def test_a_log_takes_the_place_of_predictions() -> None:
    """Weights and pool are the engine's own; what it ran with is as it says."""
    found = plan(load_model("llama-3.1-8b"), "H100", startup_log=LOG.splitlines())
    assert found.placement.capacity.weights == 14.99 * GIB
    assert found.placement.capacity.kv_pool.likely == 51.38 * GIB
    assert found.placement.capacity.pool.tokens == pytest.approx(420_880, rel=0.001)
    assert found.placement.setup.engine.version == (0, 11, 1)
    assert {term.name for term in found.placement.terms() if term.measured} == {"weights", "KV pool"}
    assert found.concurrency[-1].low == found.concurrency[-1].high == 3
    assert not any("The log states" in note for note in found.notes)


def test_a_log_of_other_settings_is_noticed() -> None:
    """Its tokens are not what its memory would hold."""
    found = plan(load_model("llama-3.1-8b"), "H100", kv_dtype="fp8", startup_log=LOG.splitlines())
    assert any("420,880 tokens" in note and "another tp" in note for note in found.notes)
    two = plan(load_model("llama-3.1-8b"), "H100", tp=2, startup_log=LOG.splitlines())
    assert any("15.0 GiB of weights, 7.5 are expected" in note for note in two.notes)


@pytest.mark.parametrize(
    ("lines", "words"),
    [(["hello"], "states nothing known"), (LOG.splitlines(), "does not state the memory of the GPU")],
)
def test_logs_that_say_too_little(lines: list[str], words: str) -> None:
    """Without a GPU, its memory has to be in the log."""
    with pytest.raises(EstimatorError, match=words):
        plan(load_model("llama-3.1-8b"), startup_log=lines)


def test_what_fits_nowhere_is_said() -> None:
    """811 GB of weights are more than any one GPU holds."""
    with pytest.raises(EstimatorError, match=r"fits no layout of the catalogue's GPUs; the largest tried, 1 x"):
        plan(load_model("llama-3.1-405b"), tp=1, quant="none")
    found = plan(load_model("llama-3.1-405b"), "T4")
    assert found.found_by == "none fits"
    assert not found.fits


@given(st.floats(0.3, 1.0), st.floats(0.3, 1.0), st.sampled_from(["vllm", "sglang", "trtllm", "llamacpp"]))
@settings(deadline=None, max_examples=40)
def test_a_larger_share_never_runs_less(a: float, b: float, engine: str) -> None:
    """Monotone in the engine's share of memory, at every length."""
    model = load_model("Qwen/Qwen3-8B")
    low, high = (
        plan(model, "H100", tp=1 if engine != "llamacpp" else None, gpus=1, engine=engine, gpu_memory_utilization=share)
        for share in sorted((a, b))
    )
    assert all(x.kv_likely <= y.kv_likely for x, y in zip(low.concurrency, high.concurrency, strict=True))


@given(st.sampled_from(["llama-3.1-8b", "google/gemma-3-27b-it", "Qwen/Qwen3-30B-A3B"]), st.sampled_from([1, 2, 4]))
@settings(deadline=None, max_examples=20)
def test_8_bit_kv_never_runs_less_and_more_gpus_neither(name: str, tp: int) -> None:
    """Of requests of any length shown."""
    model = load_model(name)
    plain, small, more = (
        plan(model, "H200", tp=ranks, kv_dtype=kind).concurrency
        for ranks, kind in ((tp, "auto"), (tp, "fp8"), (2 * tp, "auto"))
    )
    for one, two, three in zip(plain, small, more, strict=True):
        assert one.kv_likely <= two.kv_likely
        assert one.kv_likely <= three.kv_likely
