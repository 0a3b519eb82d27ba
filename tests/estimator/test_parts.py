"""How parts are shared out over GPUs."""

import pytest

from estimator.parts import Part


@pytest.mark.parametrize(
    ("part", "tp", "ep", "share"),
    [
        (Part("mlp", 8), 4, 1, 1 / 4),
        (Part("router", 8, "none"), 4, 1, 1),
        (Part("kv", 8, "kv", kv_heads=2), 8, 1, 1 / 2),
        (Part("kv", 8, "kv", kv_heads=8), 4, 1, 1 / 4),
        (Part("experts", 8, "experts"), 4, 1, 1 / 4),
        (Part("experts", 8, "experts"), 4, 16, 1 / 16),
        (Part("embedding", 8, "vocab"), 2, 1, 1 / 2),
    ],
)
def test_a_ranks_share(part: Part, tp: int, ep: int, share: float) -> None:
    """Even, whole, up to the KV heads, or by experts."""
    assert part.share(tp, ep) == share
