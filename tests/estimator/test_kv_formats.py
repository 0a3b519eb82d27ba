"""Element types by the names that engines give them."""

import pytest

from estimator import EstimatorError
from estimator.kv_formats import KV_FORMATS, kv_format


@pytest.mark.parametrize(
    ("name", "bits"),
    [("bfloat16", 16), ("fp8_e5m2", 8), ("nvfp4", 4.5), ("q8_0", 8.5), ("q4_0", 4.5), ("q5_1", 6), ("float32", 32)],
)
def test_bits_of_one_value(name: str, bits: float) -> None:
    """With the scales of packed blocks."""
    assert kv_format(name).element_bytes * 8 == bits


def test_scales_per_head_are_counted_apart() -> None:
    """A 32-bit scale per head, whatever its width."""
    assert {kv_format(f"{kind}_per_token_head").head_bytes for kind in ("fp8", "int8", "int4")} == {4}


def test_an_unknown_name_is_an_error_that_lists_the_known() -> None:
    """All of them."""
    with pytest.raises(EstimatorError, match="KV dtype 'fp7' is not known: use auto or one of") as caught:
        kv_format("fp7")
    assert all(name in str(caught.value) for name in KV_FORMATS)
