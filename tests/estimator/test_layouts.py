"""The catalogue searched for what fits."""

import pytest

from estimator import EstimatorError, load_model
from estimator.capacity import Setup
from estimator.engine import Batch, engine
from estimator.hardware import find_gpu
from estimator.layouts import Stored, find_layouts, why_not
from estimator.placement import place
from estimator.quantization import named_quantization

VLLM = Setup(engine("vllm", "0.32"))
OWN = Stored("auto", None)
FP8 = Stored("fp8", named_quantization("fp8"), needs_fp8=True)


def test_every_layout_fits_and_half_of_it_does_not() -> None:
    """The fewest GPUs of each kind, least memory first."""
    model = load_model("llama-3.1-70b")
    found = find_layouts(model, VLLM, (OWN,), ("auto",))
    sizes = [each.memory_gib for each in found.fitting]
    assert sizes == sorted(sizes)
    for each in found.fitting:
        assert each.placement.fits
        if each.placement.gpus > 1 and each.placement.setup.pp == 1:
            fewer = Setup(VLLM.engine, tp=each.placement.setup.tp // 2)
            assert not place(model, find_gpu(each.gpu_name), fewer).fits
    assert {(each.gpu_name, each.placement.gpus) for each in found.fitting} >= {("H100 80GB", 4), ("A100 80GB", 4)}


def test_fp8_is_offered_only_where_it_runs_and_saves_gpus() -> None:
    """A100 and A10 compute in no 8 bits; 8-bit KV is not named where 16 bits take as few."""
    found = find_layouts(load_model("llama-3.1-70b"), VLLM, (OWN, FP8), ("auto", "fp8"))
    assert not any(each.gpu_name.startswith("A1") for each in found.fitting if "fp8" in (each.stored, each.kv_dtype))
    by_kind: dict[tuple[str, str], dict[str, int]] = {}
    for each in found.fitting:
        by_kind.setdefault((each.gpu_name, each.stored), {})[each.kv_dtype] = each.placement.gpus
    both = [each for each in by_kind.values() if len(each) == 2]
    assert both
    assert all(each["fp8"] < each["auto"] for each in both)


def test_the_405b_in_one_node_of_h100() -> None:
    """Not in 16 bits; in 8 bits yes."""
    found = find_layouts(load_model("llama-3.1-405b"), VLLM, (OWN, FP8), ("auto",))
    h100 = {each.stored: each.placement.gpus for each in found.fitting if each.gpu_name == "H100 80GB"}
    assert h100 == {"auto": 16, "fp8": 8}
    missed = next(each for each in found.too_small if each.gpu == "H100 80GB" and each.stored == "auto")
    assert missed.gpus == 8
    assert "weights of 94.5 GiB per GPU exceed its 79.2 GiB" in missed.reason


def test_a_split_that_is_said_is_kept() -> None:
    """Then only the GPU is looked for."""
    model = load_model("llama-3.1-8b")
    found = find_layouts(model, VLLM, (OWN,), ("auto",), lambda _: Batch(2048, 64), split=(2, 1))
    assert {each.placement.gpus for each in found.fitting} == {2}
    assert {each.placement.capacity.batch for each in found.fitting} == {Batch(2048, 64)}


def test_reasons_say_what_is_missing() -> None:
    """The weights, what stands beside them, or the context."""
    model, gpu = load_model("llama-3.1-70b"), find_gpu("H100")
    assert "exceed its 79.2 GiB" in why_not(place(model, gpu, VLLM))
    tight = Setup(VLLM.engine, tp=2, utilization=0.84)
    assert "+ overhead" in why_not(place(model, gpu, tight))
    assert "one request of" in why_not(place(model, gpu, Setup(VLLM.engine, tp=2)))
    assert why_not(place(model, gpu, Setup(VLLM.engine, tp=4))) == ""


def test_nothing_to_try_is_said() -> None:
    """Such as no way to keep the weights."""
    with pytest.raises(EstimatorError, match="No GPU of the catalogue"):
        find_layouts(load_model("llama-3.1-8b"), VLLM, (), ("auto",))
