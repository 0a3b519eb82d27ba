"""The catalogue: small, sound, and forgiving about names."""

import pytest

from estimator import EstimatorError, catalog, kv_layout, load_model


@pytest.mark.parametrize("name", catalog.names())
def test_every_model_can_be_priced(name: str) -> None:
    """With its source, and with a KV cache that one GPU could hold for a thousand tokens."""
    model = load_model(name)
    assert model.name == name
    assert model.source.endswith("2026-11-22")
    assert 10_000 < kv_layout(model).bytes_per_token < 2_000_000
    assert model.context_tokens >= 2048


def test_the_file_is_small_and_the_list_long() -> None:
    """Read when first asked for, in a few milliseconds."""
    assert catalog._FILE.stat().st_size < 100_000
    assert len(catalog.names()) >= 40


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("meta-llama/Llama-3.1-70B", "meta-llama/Meta-Llama-3.1-70B"),
        ("LLAMA-3.1-405B-instruct", "meta-llama/Meta-Llama-3.1-405B"),
        ("openai/gpt-oss-20b", "openai/gpt-oss-20b"),
        ("qwen3-8b", "Qwen/Qwen3-8B"),
    ],
)
def test_names_are_found_by_alias_and_in_any_case(asked: str, found: str) -> None:
    """With or without owner."""
    assert catalog.find(asked).name == found


def test_an_unknown_name_suggests_its_neighbours() -> None:
    """And says what else may be given."""
    with pytest.raises(EstimatorError, match=r"no file, no folder.*Did you mean google/gemma-2-9b-it"):
        catalog.find("gemma-2-9b")
    with pytest.raises(EstimatorError) as caught:
        catalog.find("zzzzzzzzzzzzzz")
    assert "Did you mean" not in str(caught.value)
