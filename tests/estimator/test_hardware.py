"""The catalogue of GPUs."""

import pytest

from estimator import EstimatorError
from estimator.hardware import GPUS, find_gpu


@pytest.mark.parametrize(
    ("name", "found", "gib"),
    [
        ("H100 80GB HBM3", "H100 80GB", 79.18),
        ("NVIDIA H100 80GB HBM3", "H100 80GB", 79.18),
        ("A100-PCIE-40GB", "A100 40GB", 39.4),
        ("Tesla T4", "T4", 14.56),
        ("NVIDIA GeForce RTX 3090", "RTX 3090", 23.58),
        ("DGX Spark GB10", "GB10", 119.7),
        ("RTX PRO 6000 96GB (95.6 GiB)", "RTX PRO 6000", 95.6),
        ("mi300x", "MI300X", 191.98),
    ],
)
def test_names_as_drivers_and_people_write_them(name: str, found: str, gib: float) -> None:
    """A size in parentheses is believed."""
    gpu = find_gpu(name)
    assert (gpu.name, gpu.memory_gib) == (found, gib)
    assert gpu.memory_bytes == round(gib * 2**30)


def test_what_is_reported_is_less_than_what_is_sold() -> None:
    """By at most a tenth, in decimal gigabytes; AMD reports all of it in binary ones."""
    for gpu in GPUS:
        sold = gpu.nominal_gb * (2**30 if gpu.vendor == "amd" else 10**9)
        assert 0.86 * sold < gpu.memory_bytes < 1.075 * sold, gpu.name
        assert 200 < gpu.bandwidth_gb_s < 10_000
    assert len({gpu.name for gpu in GPUS}) == len(GPUS) >= 30


def test_an_unknown_gpu_is_an_error_that_lists_the_known() -> None:
    """No guess by likeness: memory differs."""
    with pytest.raises(EstimatorError, match="GPU 'Voodoo 2' is not in the catalogue: use one of A10, A10G"):
        find_gpu("Voodoo 2")
