"""The formula against numbers of real vLLM: what explains them counts, what does not is said."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from estimator import EstimatorError, load_model
from gateway.backends import calibration
from gateway.backends.calibration import Told, calibrate, catalogue_model
from tests.backends.pages import HYBRID

DATA = Path(__file__).parent.parent / "estimator" / "data"


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / name).read_text().splitlines()]


ZOO = rows("kv_truth_zoo.jsonl")
BY_ID = rows("kv_truth_vllm.jsonl")
GEMMA = Told(16, 163_840, 373_865, uniform=False, context_tokens=8192, version="0.32.0")
"""Gemma 3 27B, as vLLM states it."""


def told(row: dict[str, Any], *names: str) -> Told:
    """A row as an engine with these settings would state it."""
    context, planned = row["max_model_len"], sum(row.get("blocks_per_max_len_request", ()))
    return Told(
        block_tokens=row["block_size"],
        blocks=row["num_blocks"],
        tokens=row.get("kv_cache_size_tokens") or int(row["num_blocks"] / planned * context),
        uniform=False,
        context_tokens=context,
        kv_dtype=row["kv_dtype"],
        prefix_caching=row.get("enable_prefix_caching", True),
        version="0.32.0",
        names=names,
    )


@pytest.mark.parametrize("entry", ZOO, ids=lambda entry: entry["model"])
def test_the_right_model_explains_an_engine_exactly(entry: dict[str, Any]) -> None:
    """Whatever its block size, KV dtype, tensor parallelism, batch and prefix cache: none of the last three is told."""
    model = load_model(entry["config"])
    for row in entry["rows"]:
        found = calibrate(told(row), model)
        assert (found.ratio, found.warning, found.source) == (1.0, "", "kv.model_config"), row
        assert found.layout is not None
        assert found.layout.planned(row["max_model_len"]) <= row["num_blocks"]


@pytest.mark.parametrize("row", BY_ID, ids=lambda row: row["model"])
def test_a_listed_model_is_found_in_the_catalogue(row: dict[str, Any]) -> None:
    """By its id; its groups are those of vLLM."""
    found = calibrate(told(row, "what-clients-call-it", row["model"]), None)
    assert (found.source, found.ratio, found.warning) == ("catalogue", 1.0, "")
    assert found.layout is not None
    assert len(found.layout.groups) == len(row["groups"])
    assert found.described == f"from catalogue {found.model}"


def test_a_wrong_model_of_the_operator_is_a_problem() -> None:
    """It still counts, because the operator's word does, but both numbers are named."""
    found = calibrate(GEMMA, load_model("openai/gpt-oss-20b"))
    assert found.is_problem
    assert found.source == "kv.model_config"
    assert found.layout is not None
    assert "373,865" in found.warning
    assert f"{found.formula_tokens:,}" in found.warning
    assert found.ratio == pytest.approx(0.2855, abs=1e-3)


def test_a_model_that_cannot_be_cut_this_way_is_not_used() -> None:
    """The estimator's refusal becomes a warning, and the engine's tokens count."""
    found = calibrate(replace(GEMMA, block_tokens=0), load_model("google/gemma-3-27b-it"))
    assert (found.source, found.layout, found.is_problem) == ("uniform", None, True)
    assert "does not fit this engine" in found.warning


def test_a_name_alone_proves_nothing() -> None:
    """The catalogue's model is not used where the engine's numbers are another's."""
    found = calibrate(replace(GEMMA, names=("openai/gpt-oss-20b",)), None)
    assert (found.source, found.layout, found.is_problem) == ("uniform", None, False)
    assert "so it is not used" in found.warning
    assert "set kv.model_config" in found.warning
    assert found.ratio != 1


def test_an_unknown_hybrid_is_counted_as_before_with_a_warning() -> None:
    found = calibrate(replace(GEMMA, names=("house-model", "/models/house-model")), None)
    assert (found.described, found.layout, found.ratio) == ("uniform", None, None)
    assert found.warning.startswith("its layers share blocks in groups: short requests may be over-admitted")
    assert "set kv.model_config" in found.warning


def test_an_unknown_uniform_model_is_no_matter() -> None:
    found = calibrate(Told(16, 1000, 16_000, context_tokens=8000, names=("house-model",)), None)
    assert (found.described, found.warning, found.ratio) == ("uniform", "", None)


def test_an_older_engine_that_states_no_tokens_proves_nothing() -> None:
    """A hybrid of the catalogue is then a reason to ask the operator; a uniform one is not."""
    old = Told(16, 1000, context_tokens=8192, version="0.18.0")
    hybrid = calibrate(replace(old, names=("google/gemma-3-27b-it",)), None)
    assert (hybrid.layout, hybrid.ratio) == (None, None)
    assert "does not state its tokens" in hybrid.warning
    assert calibrate(replace(old, names=("Qwen/Qwen3-1.7B",)), None).warning == ""
    by_operator = calibrate(old, HYBRID)
    assert (by_operator.warning, by_operator.ratio) == ("", None)
    assert by_operator.layout is not None
    assert len(by_operator.layout.groups) == 2


def test_what_the_operator_sizes_is_not_cut_by_the_catalogue() -> None:
    """It is still compared."""
    found = calibrate(replace(GEMMA, names=("google/gemma-3-27b-it",)), None, from_catalogue=False)
    assert (found.source, found.layout, found.ratio) == ("uniform", None, 1.0)


def test_a_block_of_a_small_pool_is_no_difference() -> None:
    """One in thirty blocks is more than the tolerance of large pools."""
    model = load_model("Qwen/Qwen3-1.7B")
    assert calibrate(Told(16, 32, 31 * 16, context_tokens=512), model).warning == ""
    assert calibrate(Told(16, 32, 30 * 16, context_tokens=512), model).is_problem
    large = Told(16, 10_000, 158_500, context_tokens=512)
    assert calibrate(large, model).warning == ""
    assert calibrate(replace(large, tokens=158_000), model).is_problem


def test_a_kv_dtype_that_is_new_is_taken_for_the_models_own() -> None:
    """Groups seldom depend on it."""
    found = calibrate(replace(GEMMA, kv_dtype="fp3_new"), load_model("google/gemma-3-27b-it"))
    assert (found.ratio, found.warning) == (1.0, "")


def test_a_path_that_an_engine_names_is_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of that name on this machine is somebody else's."""
    (tmp_path / "config.json").write_text(json.dumps(ZOO[0]["config"]))
    monkeypatch.chdir(tmp_path)
    names = (str(tmp_path), ".", "config.json", "x" * 5000)
    assert [catalogue_model(name) for name in names] == [None] * 4
    assert calibrate(replace(GEMMA, names=names), None).source == "uniform"


def test_a_catalogue_that_cannot_be_priced_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(name: str) -> None:
        raise EstimatorError("This model has no layers.")

    monkeypatch.setattr(calibration, "catalogue_model", fails)
    found = calibrate(replace(GEMMA, names=("m",)), None)
    assert found.source == "uniform"
    assert "This model has no layers." in found.warning
    assert calibrate(Told(16, 100, 1600, names=("m",)), None).warning == ""


@given(
    st.integers(1, 4096),
    st.integers(2, 10**9),
    st.integers(1, 10**12) | st.none(),
    st.integers(1, 10**7) | st.none() | st.just(10**400),
    st.sampled_from(["", "0.9.1", "0.19", "9" * 64, "v0.32.0rc1", "?"]),
    st.sampled_from([HYBRID, None]),
)
@settings(max_examples=50, deadline=None)
def test_any_numbers_end_in_a_layout_or_in_a_warning(
    block_tokens: int, blocks: int, tokens: int | None, context: int | None, version: str, model: Any
) -> None:
    """Nothing is raised, and JSON of it makes sense."""
    stated = Told(block_tokens, blocks, tokens, False, context, version=version, names=("openai/gpt-oss-20b",))
    found = calibrate(stated, model)
    assert found.layout is not None or found.warning
    assert found.ratio is None or found.ratio > 0
    assert found.plain["ratio"] == found.ratio
