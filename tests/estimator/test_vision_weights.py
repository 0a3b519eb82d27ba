"""Parameters of what reads images."""

from typing import Any

import pytest

from estimator.config_fields import ConfigFields
from estimator.vision_weights import vision_params


@pytest.mark.parametrize(
    ("tower", "millions"),
    [
        ({"num_hidden_layers": 27, "hidden_size": 1152, "intermediate_size": 4304}, 419),
        ({"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "spatial_merge_size": 2}, 456),
        ({"depth": 32, "embed_dim": 1280, "mlp_ratio": 4, "spatial_merge_size": 2}, 674),
    ],
)
def test_towers_of_known_size(tower: dict[str, Any], millions: float) -> None:
    """SigLIP of Gemma 3, the tower of Qwen3.5, that of Qwen2-VL."""
    assert vision_params(ConfigFields("m", {"vision_config": tower}), 5120) / 1e6 == pytest.approx(millions, rel=0.02)


def test_a_stated_number_wins_and_a_poor_description_counts_nothing() -> None:
    """Text models have none."""
    assert vision_params(ConfigFields("m", {"vision_params": 7}), 64) == 7
    assert vision_params(ConfigFields("m", {"vision_config": {"patch_size": 14}}), 64) == 0
    assert vision_params(ConfigFields("m", {}), 64) == 0
