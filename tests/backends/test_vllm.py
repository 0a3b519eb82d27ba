import json
import threading
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, strategies as st

from gateway.backends.calibration import Calibration, calibrate
from gateway.backends.engine import LISTING_MAX_AGE_S, Fault, TelemetryError
from gateway.backends.pool import StatedPool
from gateway.backends.upstream import FailureKind, UpstreamFailure
from gateway.backends.vllm import WANTED, Vllm, read_page
from tests.backends.pages import HYBRID, UNSTATED, Pages, recorded

BUSY = recorded("vllm/metrics-busy.txt")


def pages(metrics: bytes = BUSY) -> Pages:
    """A server as recorded."""
    return Pages(
        {
            "/metrics": metrics,
            "/v1/models": recorded("vllm/models.json"),
            "/version": recorded("vllm/version.json"),
        }
    )


def vllm(models: dict[str, str] | None = None, stated: StatedPool = UNSTATED) -> Vllm:
    """A driver under test."""
    return Vllm("one", models or {}, stated)


def metrics(usage: str = "0.5", config: str = 'block_size="16",num_gpu_blocks="101"', more: str = "") -> bytes:
    """The least page that is of use."""
    return f"vllm:kv_cache_usage_perc {usage}\nvllm:cache_config_info{{{config}}} 1.0\n{more}".encode()


async def test_a_real_server_under_load() -> None:
    """Capacity without the null block, use in blocks, counters, version, models: all from real pages."""
    reading = await vllm().read(pages(), 7.0)
    assert reading.capacity is not None
    assert reading.capacity.layout.block_tokens == 32
    assert reading.capacity.sequence_tokens_max == 512
    said = read_page(BUSY)
    assert said.pool.blocks == reading.capacity.blocks
    assert reading.used_blocks == round(said.usage * reading.capacity.blocks) > 0
    assert (reading.backend, reading.asked_at) == ("one", 7.0)
    assert reading.models == {"tiny"}
    assert (reading.running, reading.waiting, reading.preemptions) == (3, 0, 0)
    assert reading.work_done == 144.0
    assert reading.engine_version == "0.32.0"


async def test_idle_pages_of_the_same_life() -> None:
    """Before and after load nothing is used, and it is the same generation."""
    driver = vllm()
    lives = set()
    for name in ("metrics", "metrics-busy", "metrics-after"):
        reading = await driver.read(pages(recorded(f"vllm/{name}.txt")), 0.0)
        lives.add(reading.generation)
        assert (reading.used_blocks == 0) is (name != "metrics-busy")
    assert len(lives) == 1


LENGTHS = """\
vllm:request_generation_tokens_bucket{engine="0",le="1.0",model_name="tiny"} 0.0
vllm:request_generation_tokens_bucket{engine="0",le="2.0",model_name="tiny"} 0.0
vllm:request_generation_tokens_bucket{engine="0",le="5.0",model_name="tiny"} 1.0
vllm:request_generation_tokens_bucket{engine="0",le="10.0",model_name="tiny"} 43.0
vllm:request_generation_tokens_bucket{engine="0",le="20.0",model_name="tiny"} 43.0
vllm:request_generation_tokens_bucket{engine="0",le="50.0",model_name="tiny"} 43.0
vllm:request_generation_tokens_bucket{engine="0",le="100.0",model_name="tiny"} 43.0
vllm:request_generation_tokens_bucket{engine="0",le="200.0",model_name="tiny"} 294.0
vllm:request_generation_tokens_bucket{engine="0",le="500.0",model_name="tiny"} 294.0
vllm:request_generation_tokens_bucket{engine="0",le="+Inf",model_name="tiny"} 294.0
vllm:request_generation_tokens_count{engine="0",model_name="tiny"} 294.0
vllm:request_generation_tokens_sum{engine="0",model_name="tiny"} 50621.0
"""
"""As vLLM 0.32.0 has it after 251 answers of 200 tokens and 43 shorter ones."""


async def test_the_lengths_of_earlier_answers_are_told_once_per_life() -> None:
    """Per public name; later looks leave the histogram alone."""
    driver, server = vllm({"llama": "tiny"}), pages(metrics(more=LENGTHS))
    ((model, lengths),) = (await driver.read(server, 0.0)).answer_lengths
    assert model == "llama"
    assert lengths.bounds == (1, 2, 5, 10, 20, 50, 100, 200, 500)
    assert lengths.counts == (0, 0, 1, 42, 0, 0, 0, 251, 0, 0)
    assert (await driver.read(server, 1.0)).answer_lengths == ()


async def test_names_are_mapped_and_unlisted_ones_left_out() -> None:
    """A public name whose model the engine does not list is not served."""
    reading = await vllm({"llama": "tiny", "other": "absent"}).read(pages(), 0.0)
    assert reading.models == {"llama"}


async def test_the_listing_is_read_again_when_old_or_after_a_restart() -> None:
    """Two looks in a row ask for metrics alone; time and a new start ask for the rest again."""
    driver, server = vllm(), pages(metrics(more="process_start_time_seconds 1\n"))
    for now in (0.0, 1.0):
        await driver.read(server, now)
    assert server.asked == {"/metrics": 2, "/v1/models": 1, "/version": 1}
    await driver.read(server, LISTING_MAX_AGE_S)
    assert server.asked == {"/metrics": 3, "/v1/models": 2, "/version": 1}
    server.pages["/metrics"] = metrics(more="process_start_time_seconds 2\n")
    await driver.read(server, LISTING_MAX_AGE_S + 1)
    assert server.asked == {"/metrics": 4, "/v1/models": 3, "/version": 2}


async def test_a_version_page_that_fails_costs_nothing() -> None:
    """It is only shown to people."""
    server = pages()
    for page in ((404, b""), b"not json"):
        server.pages["/version"] = page
        assert (await vllm().read(server, 0.0)).engine_version == ""


async def test_failures_pass_through() -> None:
    """A server that is gone is no telemetry error; one that keeps its models to itself is."""
    gone = UpstreamFailure(FailureKind.CONNECT, "gone", request_sent=False)
    with pytest.raises(UpstreamFailure):
        await vllm().read(Pages({"/metrics": gone}), 0.0)
    with pytest.raises(TelemetryError, match="401"):
        await vllm().read(Pages({"/metrics": BUSY, "/v1/models": (401, b"")}), 0.0)


async def test_what_the_prefix_cache_found() -> None:
    """In tokens, over all ranks; None from an engine that does not count it, or counts blocks."""
    assert (await vllm().read(pages(), 0.0)).prefix_hit_tokens == 0.0
    two = "".join(f'vllm:prefix_cache_hits_total{{engine="{rank}"}} {hits}\n' for rank, hits in ((0, 64), (1, 32)))
    assert (await vllm().read(pages(metrics(more=two)), 0.0)).prefix_hit_tokens == 96.0
    for more in ("", "vllm:gpu_prefix_cache_hits_total 5\n", "vllm:external_prefix_cache_hits_total 5\n"):
        assert read_page(metrics(more=more)).prefix_hit_tokens is None
    with pytest.raises(TelemetryError, match="prefix_cache_hits"):
        read_page(metrics(more="vllm:prefix_cache_hits_total NaN\n"))


def test_the_old_name_of_the_gauge() -> None:
    """Up to 0.11 it was called after the GPU."""
    assert read_page(metrics().replace(b"kv_cache", b"gpu_cache")).usage == 0.5


def test_duplicates_of_several_processes() -> None:
    """The largest of a rank's duplicates counts."""
    page = read_page(metrics(more='vllm:kv_cache_usage_perc{pid="2"} 0.75\nvllm:num_requests_running{pid="2"} 4\n'))
    assert (page.usage, page.running) == (0.75, 4)


def test_data_parallel_ranks() -> None:
    """Pools and counts add up; use is weighted by the pools."""
    text = "".join(
        f'vllm:kv_cache_usage_perc{{engine="{rank}"}} {usage}\nvllm:num_requests_running{{engine="{rank}"}} 2\n'
        f'vllm:cache_config_info{{engine="{rank}",block_size="16",num_gpu_blocks="{blocks}"}} 1\n'
        for rank, usage, blocks in ((0, 1.0, 101), (1, 0.0, 301))
    )
    page = read_page(text.encode())
    assert (page.usage, page.running) == (0.25, 4)
    assert (page.pool.blocks, page.pool.tokens, page.pool.ranks) == (400, 6400, 2)


@pytest.mark.parametrize("context", [512, 500, 497, 300, 16, 4097])
@pytest.mark.parametrize("blocks", [33, 1000, 4097])
def test_a_uniform_pool_is_known_whatever_the_context(context: int, blocks: int) -> None:
    """The engine's tokens fall short where blocks do not divide its context: that alone makes no hybrid."""
    longest = -(-context // 32)
    config = (
        f'block_size="32",num_gpu_blocks="{blocks}",kv_cache_size_tokens="{int(blocks / longest * context)}",'
        f'kv_cache_max_concurrency="{blocks / longest}"'
    )
    assert read_page(metrics(config=config)).pool.tokens == (blocks - 1) * 32


def listing(*models: tuple[str, str]) -> bytes:
    """A page of models: id and root, of 8192 tokens each."""
    data = [{"id": name, "root": root, "max_model_len": 8192} for name, root in models]
    return json.dumps({"data": data}).encode()


GEMMA = 'block_size="32",num_gpu_blocks="32768",kv_cache_size_tokens="528416",kv_cache_max_concurrency="129.0079"'
"""A small Gemma 3 on a real server: blocks times block size would be 1,048,576."""


async def test_a_hybrid_without_its_architecture() -> None:
    """The engine's own number of tokens, in uniform blocks, and use as a share of that."""
    reading = await vllm().read(pages(metrics("0.5", GEMMA)), 0.0)
    assert reading.capacity is not None
    assert reading.capacity.blocks == 528416 * 32767 // 32768 // 32
    assert reading.used_blocks == round(0.5 * reading.capacity.blocks)


async def test_a_hybrid_with_its_architecture() -> None:
    """The groups share the engine's block ids: those are counted."""
    reading = await vllm(stated=StatedPool(model=HYBRID)).read(pages(metrics("0.5", GEMMA)), 0.0)
    assert reading.capacity is not None
    assert reading.capacity.blocks == 32767
    assert len(reading.capacity.layout.groups) > 1
    assert reading.used_blocks == round(0.5 * 32767)


GEMMA_27B = (
    'block_size="16",num_gpu_blocks="163840",cache_dtype="auto",enable_prefix_caching="True",'
    f'kv_cache_size_tokens="373865",kv_cache_max_concurrency="{163840 / 3590}"'
)
"""Gemma 3 27B as real vLLM sizes it at 8192 tokens: 163,840 blocks hold 373,865 tokens of longest sequences."""


async def test_a_hybrid_that_the_catalogue_knows() -> None:
    """Its groups count without a setting: a short request takes a block in each of seven, not one."""
    server = pages(metrics("0.5", GEMMA_27B))
    server.pages["/v1/models"] = listing(("chat", "google/gemma-3-27b-it"))
    driver = vllm()
    reading = await driver.read(server, 0.0)
    assert reading.capacity is not None
    assert reading.capacity.blocks == 163_839
    assert reading.capacity.layout.blocks(1) == 7
    assert reading.used_blocks == round(0.5 * 163_839)
    assert driver.calibration is not None
    assert (driver.calibration.described, driver.calibration.ratio) == ("from catalogue google/gemma-3-27b-it", 1.0)


async def test_the_layout_is_chosen_once_per_life_and_off_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look asks; only a change of what it follows from computes."""
    threads: list[threading.Thread] = []

    def noted(*args: Any, **kwargs: Any) -> Calibration:
        threads.append(threading.current_thread())
        return calibrate(*args, **kwargs)

    monkeypatch.setattr("gateway.backends.vllm.calibrate", noted)
    server, driver = pages(metrics("0.5", GEMMA_27B)), vllm()
    for now in (0.0, 1.0, LISTING_MAX_AGE_S + 2):
        await driver.read(server, now)
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()
    server.pages["/v1/models"] = listing(("chat", "google/gemma-3-27b-it"))
    reading = await driver.read(server, 2 * LISTING_MAX_AGE_S + 4)
    assert len(threads) == 2
    assert reading.capacity is not None
    assert len(reading.capacity.layout.groups) == 7


async def test_a_model_of_the_operator_that_does_not_fit_falls_back() -> None:
    """The engine's own tokens count: better than a backend that is never ready."""
    driver = vllm(stated=StatedPool(model=replace(HYBRID, dtype="no-such-dtype")))
    reading = await driver.read(pages(metrics("0.5", GEMMA_27B)), 0.0)
    assert reading.capacity is not None
    assert reading.capacity.blocks == 373_865 * 163_839 // 163_840 // 16
    assert driver.calibration is not None
    assert driver.calibration.is_problem


async def test_a_recorded_pool_without_a_known_model_is_uniform() -> None:
    """The usual case says nothing and warns of nothing."""
    driver = vllm()
    await driver.read(pages(), 0.0)
    assert driver.calibration is not None
    assert (driver.calibration.described, driver.calibration.warning) == ("uniform", "")
    told = read_page(BUSY).told
    assert told is not None
    assert (told.blocks, told.tokens, told.uniform, told.context_tokens, told.prefix_caching) == (
        33,
        1056,
        True,
        512,
        True,
    )


@pytest.mark.parametrize("config", ['block_size="16",num_gpu_blocks="None"', 'block_size="x",num_gpu_blocks="5"', ""])
async def test_a_pool_that_is_not_told_must_be_stated(config: str) -> None:
    """Without a word of either, nothing is guessed."""
    server = pages(metrics("0.5", config))
    with pytest.raises(TelemetryError) as error:
        await vllm().read(server, 0.0)
    assert error.value.reason is Fault.MISSING_METRIC
    reading = await vllm(stated=StatedPool(1600, 16)).read(server, 0.0)
    assert reading.capacity is not None
    assert (reading.capacity.blocks, reading.used_blocks) == (100, 50)


@pytest.mark.parametrize("usage", ["NaN", "-0.1", "1.06", "78.1", "+Inf", "x"])
def test_usage_that_is_no_fraction_is_refused(usage: str) -> None:
    """A percentage, a sign, nothing: dropped, never clipped into something that looks right."""
    with pytest.raises(TelemetryError) as error:
        read_page(metrics(usage))
    assert error.value.reason is Fault.PARSE


def test_no_gauge_is_told_apart_from_a_bad_one() -> None:
    """The next rename shows as a missing metric."""
    with pytest.raises(TelemetryError) as error:
        read_page(metrics().replace(b"usage_perc", b"usage_ratio"))
    assert error.value.reason is Fault.MISSING_METRIC


@given(
    st.lists(
        st.tuples(
            st.sampled_from(sorted(WANTED)),
            st.dictionaries(
                st.sampled_from(["engine", "block_size", "num_gpu_blocks", "kv_cache_size_tokens"]),
                st.integers(0, 99).map(str) | st.sampled_from(["None", "", "9" * 15]),
            ),
            st.floats().map(repr) | st.integers().map(str),
        ),
        max_size=6,
    )
)
def test_any_page_is_read_or_refused(lines: list[tuple[bytes, dict[str, str], str]]) -> None:
    """Whatever the numbers, nothing but TelemetryError comes out, and what comes out makes sense."""
    text = "".join(
        name.decode() + "{" + ",".join(f'{key}="{value}"' for key, value in labels.items()) + "} " + number + "\n"
        for name, labels, number in lines
    )
    try:
        page = read_page(text.encode())
    except TelemetryError:
        return
    assert 0 <= page.usage <= 1.05
    assert page.running is None or page.running >= 0
