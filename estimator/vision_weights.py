"""Parameters of what turns images into tokens, from the vision part of a configuration."""

from __future__ import annotations

from estimator.config_fields import ConfigFields
from estimator.errors import EstimatorError

_TOWERS = ("vision_config", "vision_tower_config", "vit_config", "visual")
_DEPTH = ("depth", "num_hidden_layers", "vt_num_hidden_layers", "n_layers")
_WIDTH = ("embed_dim", "hidden_size", "vt_hidden_size", "width")
_INNER = ("intermediate_size", "vt_intermediate_size")


def vision_params(whole: ConfigFields, text_hidden: int) -> int:
    """Parameters of the tower and of what joins it to the text; 0 where there is none or it says too little.

    A tower is 0.3 to 6 billion parameters, most of them in its layers; patches and positions are left out.
    """
    if stated := whole.count_if_any("vision_params"):
        return stated
    tower = whole.inner(*_TOWERS)
    if tower is None:
        return 0
    try:
        depth, width = tower.count(*_DEPTH), tower.count(*_WIDTH)
        inner = tower.count_if_any(*_INNER) or width * _ratio(tower)
    except EstimatorError:
        return 0
    gated = tower.text("hidden_act") == "silu" or tower.text("model_type").startswith("pixtral")
    layer = 4 * width * width + (3 if gated else 2) * width * inner
    merge = tower.count_if_any("spatial_merge_size") or 1
    joined = width * merge * merge
    mergers = 1 + len(tower.items("deepstack_visual_indexes"))
    return depth * layer + mergers * (joined * joined + joined * text_hidden)


def _ratio(tower: ConfigFields) -> int:
    ratio = tower.values.get("mlp_ratio")
    return int(ratio) if isinstance(ratio, int | float) and 1 <= ratio <= 16 else 4
