"""What versions of engines do differently."""

import pytest

from estimator import EstimatorError
from estimator.engine import NEWEST_VLLM, Batch, default_batch, engine


@pytest.mark.parametrize(
    ("text", "version", "v1"),
    [
        ("0.8.3 (V1)", (0, 8, 3), True),
        ("0.8.2 (V0)", (0, 8, 2), False),
        ("0.6.4.post1", (0, 6, 4), False),
        ("0.11.0rc2.dev98 (V1)", (0, 11, 0), True),
        ("0.30-0.33 (V2 model runner)", (0, 30, 0), True),
        ("2025-07", (0, 9), True),
        ("2023-12", (0, 2), False),
        ("custom tree 2026-05", (0, 20), True),
        ("0.1.dev20073", NEWEST_VLLM, True),
        (None, NEWEST_VLLM, True),
    ],
)
def test_versions_as_logs_write_them(text: str | None, version: tuple[int, ...], v1: bool) -> None:
    """Numbers, months, or nothing: then the newest is assumed and marked as such."""
    found = engine("vllm", text)
    assert (found.version[: len(version)], found.v1) == (version, v1)


@pytest.mark.parametrize(
    ("version", "prints", "groups", "batches", "graphs", "share"),
    [
        ("0.6.4", "blocks", False, 1, False, 0.9),
        ("0.8.5", "blocks", False, 1, False, 0.9),
        ("0.11.0", "groups", True, 1, False, 0.9),
        ("0.19.0", "groups", True, 2, False, 0.9),
        ("0.20.0", "context", True, 2, False, 0.9),
        ("0.21.0", "context", True, 2, True, 0.9),
        ("0.22.0", "context", True, 2, True, 0.92),
        ("0.32.0", "context", True, 2, True, 0.92),
    ],
)
def test_what_changed_when(version: str, prints: str, groups: bool, batches: int, graphs: bool, share: float) -> None:
    """Meaning of the printed tokens, grouping, room for batches, graphs in the budget, default share."""
    found = engine("vllm", version)
    assert (found.prints, found.groups_layers, found.batches_in_flight) == (prints, groups, batches)
    assert (found.budgets_graphs, found.utilization) == (graphs, share)


def test_batches_that_servers_take_by_themselves() -> None:
    """Large GPUs more, but an A100 as a small one; prompts in one go before there were chunks."""
    new, old = engine("vllm", "0.11.0"), engine("vllm", "0.6.4")
    assert default_batch(new, 79, a100=False, context_tokens=8192) == Batch(8192, 1024)
    assert default_batch(new, 79, a100=True, context_tokens=8192) == Batch(2048, 256)
    assert default_batch(new, 24, a100=False, context_tokens=8192) == Batch(2048, 256)
    assert default_batch(engine("vllm"), 180, a100=False, context_tokens=8192) == Batch(16_384, 1024)
    assert default_batch(old, 24, a100=False, context_tokens=20_000) == Batch(20_000, 256)
    assert default_batch(old, 80, a100=False, context_tokens=131_072) == Batch(512, 256)
    assert default_batch(engine("sglang"), 80, a100=False, context_tokens=8192) == Batch(8192, 256)


def test_an_unknown_engine_is_refused() -> None:
    """With the known."""
    with pytest.raises(EstimatorError, match="Engine 'tgi' is not known: use one of vllm, sglang"):
        engine("tgi")
