"""The metrics page: readable by Prometheus' own parser, with vLLM's names."""

import math

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from gateway.simulation.engine import Engine, EngineConfig
from gateway.simulation.exposition import Exposition, MetricsFault
from gateway.simulation.live import Histogram, LiveEngine
from gateway.simulation.profiles import DEMO


@pytest.fixture
def live() -> LiveEngine:
    """33 blocks of 32 with vLLM's null block, context 512; nothing steps it but the test."""
    return LiveEngine(Engine(EngineConfig(DEMO, 32, 32, sequence_tokens_max=512)))


@pytest.fixture
def page(live: LiveEngine) -> Exposition:
    """Its metrics."""
    return Exposition(live, model="m", started_unix_s=1234.5)


def samples(page: Exposition) -> dict[str, list[Sample]]:
    """All samples by name."""
    found: dict[str, list[Sample]] = {}
    for family in text_string_to_metric_families(page.render().decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample)
    return found


def value(page: Exposition, name: str) -> float:
    """The only sample of this name."""
    (sample,) = samples(page)[name]
    return sample.value


def test_capacity_counts_the_null_block_as_vllm_does(page: Exposition) -> None:
    """The labels of a real server with the same pool: 33 blocks, 1,056 tokens, 2.0625 full contexts."""
    (info,) = samples(page)["vllm:cache_config_info"]
    expected = {
        "block_size": "32",
        "num_gpu_blocks": "33",
        "kv_cache_size_tokens": "1056",
        "kv_cache_max_concurrency": "2.0625",
        "engine": "0",
    }
    assert expected.items() <= info.labels.items()
    assert info.value == 1


def test_load_and_counters_follow_the_engine(live: LiveEngine, page: Exposition) -> None:
    """Eight sequences that need all 32 blocks and more: usage, queue, preemptions and tokens are the engine's."""
    for _ in range(8):
        live.engine.submit(100, 100)
    for _ in range(40):
        live.engine.step()
    assert value(page, "vllm:kv_cache_usage_perc") == live.engine.used_blocks / 32 > 0.9
    assert value(page, "vllm:num_requests_running") == live.engine.running > 0
    assert value(page, "vllm:num_requests_waiting") == live.engine.waiting > 0
    assert value(page, "vllm:num_preemptions_total") == live.engine.preemptions > 0
    assert value(page, "vllm:prompt_tokens_total") == 800
    assert value(page, "vllm:generation_tokens_total") == live.engine.generated_tokens
    by_reason = {
        sample.labels["reason"]: sample.value for sample in samples(page)["vllm:num_requests_waiting_by_reason"]
    }
    assert by_reason == {"capacity": live.engine.waiting, "deferred": 0}


def test_has_the_names_that_gateways_read(page: Exposition) -> None:
    """Besides those above; every vLLM series names model and engine."""
    found = samples(page)
    assert {
        "process_start_time_seconds",
        "vllm:prefix_cache_queries_total",
        "vllm:prefix_cache_hits_total",
        "vllm:request_generation_tokens_bucket",
        "vllm:request_generation_tokens_sum",
        "vllm:request_generation_tokens_count",
    } <= found.keys()
    assert value(page, "process_start_time_seconds") == 1234.5
    reasons = {sample.labels["finished_reason"] for sample in found["vllm:request_success_total"]}
    assert {"stop", "length", "abort"} <= reasons
    for name in found.keys() - {"process_start_time_seconds", "vllm:cache_config_info"}:
        assert all(s.labels["model_name"] == "m" and s.labels["engine"] == "0" for s in found[name]), name


def test_histogram_buckets_are_cumulative(live: LiveEngine, page: Exposition) -> None:
    """A value on a bound belongs to it; the last bucket holds all."""
    live.ended.output_tokens = Histogram((1, 2, 5))
    for tokens in (1, 2, 3, 9):
        live.ended.output_tokens.observe(tokens)
    buckets = {s.labels["le"]: s.value for s in samples(page)["vllm:request_generation_tokens_bucket"]}
    assert buckets == {"1.0": 1, "2.0": 2, "5.0": 3, "+Inf": 4}
    assert value(page, "vllm:request_generation_tokens_sum") == 15


def test_frozen_metrics_repeat_themselves(live: LiveEngine, page: Exposition) -> None:
    """From the last honest page on."""
    before = page.render()
    page.fault = MetricsFault.FROZEN
    live.engine.submit(100, 100)
    live.engine.step()
    assert page.render() == before
    page.fault = MetricsFault.NONE
    assert page.render() != before


def test_other_faults_mislead_as_named(page: Exposition) -> None:
    """NaN, the old name of the usage gauge, a made-up usage, and no metrics at all."""
    page.fault = MetricsFault.NAN
    assert math.isnan(value(page, "vllm:kv_cache_usage_perc"))
    assert math.isnan(value(page, "vllm:num_requests_running"))
    page.fault = MetricsFault.OLD_NAMES
    assert value(page, "vllm:gpu_cache_usage_perc") == 0
    assert "vllm:kv_cache_usage_perc" not in samples(page)
    page.fault = MetricsFault.NONE
    page.reported_usage = 99.0
    assert value(page, "vllm:kv_cache_usage_perc") == 99
    page.fault = MetricsFault.GARBAGE
    with pytest.raises(ValueError, match=r".*"):
        samples(page)
