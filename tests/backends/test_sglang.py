import pytest

from gateway.backends.engine import LISTING_MAX_AGE_S, Fault, TelemetryError
from gateway.backends.pool import StatedPool
from gateway.backends.sglang import Sglang
from tests.backends.pages import UNSTATED, Pages

LISTING = b'{"object":"list","data":[{"id":"qwen","object":"model","root":"qwen","max_model_len":32768}]}'
METRICS = """\
sglang:token_usage{model_name="qwen",tp_rank="0"} 0.25
sglang:num_used_tokens{model_name="qwen",tp_rank="0"} 25600.0
sglang:max_total_num_tokens{model_name="qwen",tp_rank="0"} 102400.0
sglang:page_size{model_name="qwen",tp_rank="0"} 64.0
sglang:num_running_reqs{model_name="qwen",tp_rank="0"} 5.0
sglang:num_queue_reqs{model_name="qwen",tp_rank="0"} 2.0
sglang:num_retracted_requests_total{model_name="qwen"} 3.0
sglang:prompt_tokens_total{model_name="qwen"} 1000.0
sglang:generation_tokens_total{model_name="qwen"} 500.0
"""
INFO = b'{"version":"0.5.23","page_size":64,"max_total_num_tokens":102400,"context_length":8192,"tp_size":1}'


def pages(metrics: str = METRICS, **more: bytes) -> Pages:
    """A server as its documentation and source describe it; no recording could be made without a GPU."""
    server = Pages({"/metrics": metrics.encode(), "/v1/models": LISTING})
    server.pages.update({f"/{path}": body for path, body in more.items()})
    return server


def sglang(models: dict[str, str] | None = None, stated: StatedPool = UNSTATED) -> Sglang:
    """A driver under test."""
    return Sglang("one", models or {}, stated)


@pytest.mark.parametrize("prefix", ["sglang:", "sglang_"])
async def test_both_prefixes(prefix: str) -> None:
    """Versions differ in the separator, and in nothing else."""
    reading = await sglang().read(pages(METRICS.replace("sglang:", prefix), server_info=INFO), 3.0)
    assert reading.capacity is not None
    assert (reading.capacity.blocks, reading.capacity.layout.block_tokens) == (1600, 64)
    assert reading.capacity.sequence_tokens_max == 32768
    assert (reading.used_blocks, reading.running, reading.waiting, reading.preemptions) == (400, 5, 2, 3)
    assert (reading.work_done, reading.engine_version) == (1500.0, "0.5.23")
    assert reading.models == {"qwen"}


@pytest.mark.parametrize("prefix", ["sglang:", "sglang_"])
async def test_the_lengths_of_earlier_answers_are_told_once_per_life(prefix: str) -> None:
    """Where the server was started so that it counts them."""
    buckets = (("100.0", 3), ("300.0", 5), ("+Inf", 9))
    lines = (
        f'sglang:generation_tokens_histogram_bucket{{le="{le}",model_name="qwen"}} {count}\n' for le, count in buckets
    )
    driver, server = sglang(), pages((METRICS + "".join(lines)).replace("sglang:", prefix))
    ((model, lengths),) = (await driver.read(server, 0.0)).answer_lengths
    assert (model, lengths.bounds, lengths.counts) == ("qwen", (100.0, 300.0), (3.0, 2.0, 4.0))
    assert (await driver.read(server, 1.0)).answer_lengths == ()


@pytest.mark.parametrize("prefix", ["sglang:", "sglang_"])
async def test_what_the_prefix_cache_found(prefix: str) -> None:
    """Wherever it was kept, and each tensor-parallel rank's copy of the count once; None until it counts."""
    assert (await sglang().read(pages(METRICS.replace("sglang:", prefix)), 0.0)).prefix_hit_tokens is None
    counts = (("device", 0, 700), ("device", 1, 700), ("host", 0, 50), ("host", 1, 50))
    by_source = "".join(
        f'sglang:cached_tokens_total{{cache_source="{source}",tp_rank="{rank}"}} {count}\n'
        for source, rank, count in counts
    )
    for more, hits in ((by_source, 750.0), ('sglang:cached_tokens_total{model_name="qwen"} 42\n', 42.0)):
        reading = await sglang().read(pages((METRICS + more).replace("sglang:", prefix)), 0.0)
        assert reading.prefix_hit_tokens == hits


async def test_capacity_from_the_server_info_where_metrics_have_none() -> None:
    """Older versions tell the pool on a page of its own, under its old name."""
    metrics = "".join(line + "\n" for line in METRICS.splitlines() if "max_total" not in line and "page_" not in line)
    server = pages(metrics, get_server_info=INFO)
    reading = await sglang().read(server, 0.0)
    assert reading.capacity is not None
    assert (reading.capacity.blocks, reading.used_blocks) == (1600, 400)


async def test_no_capacity_anywhere() -> None:
    """Then the operator must state it."""
    metrics = "sglang:token_usage 0.5\n"
    with pytest.raises(TelemetryError) as error:
        await sglang().read(pages(metrics, server_info=b"[]"), 0.0)
    assert error.value.reason is Fault.MISSING_METRIC
    reading = await sglang(stated=StatedPool(capacity_tokens=1000)).read(pages(metrics), 0.0)
    assert reading.used_blocks == 500


async def test_data_parallel_ranks_and_tensor_parallel_copies() -> None:
    """Copies of a rank count once, ranks add up, use is weighted."""
    metrics = "".join(
        f'sglang:token_usage{{dp_rank="{dp}",tp_rank="{tp}"}} {usage}\n'
        f'sglang:max_total_num_tokens{{dp_rank="{dp}",tp_rank="{tp}"}} {tokens}\n'
        for dp, usage, tokens in ((0, 1.0, 1000), (1, 0.0, 3000))
        for tp in (0, 1)
    )
    reading = await sglang().read(pages(metrics), 0.0)
    assert reading.capacity is not None
    assert (reading.capacity.blocks, reading.used_blocks, reading.capacity.sequence_tokens_max) == (4000, 1000, 2000)


async def test_used_tokens_where_the_share_is_missing() -> None:
    """The absolute gauge says the same."""
    reading = await sglang().read(pages(METRICS.replace("token_usage", "token_share")), 0.0)
    assert reading.used_blocks == 400


@pytest.mark.parametrize(("usage", "reason"), [("25", Fault.PARSE), ("NaN", Fault.PARSE), ("-1", Fault.PARSE)])
async def test_usage_that_is_no_fraction_is_refused(usage: str, reason: Fault) -> None:
    """Never clipped into something that looks right."""
    with pytest.raises(TelemetryError) as error:
        await sglang().read(pages(METRICS.replace("0.25", usage)), 0.0)
    assert error.value.reason is reason


async def test_no_usage_at_all() -> None:
    """Told apart from a bad one."""
    with pytest.raises(TelemetryError) as error:
        await sglang(stated=StatedPool(capacity_tokens=1000)).read(pages("sglang:num_running_reqs 1\n"), 0.0)
    assert error.value.reason is Fault.MISSING_METRIC


async def test_a_restart_is_a_new_generation_and_the_rest_is_cached() -> None:
    """Counters that fall are a restart; only then, or when old, is the listing read again."""
    driver, server = sglang({"public": "qwen"}), pages(server_info=INFO)
    first = await driver.read(server, 0.0)
    assert first.models == {"public"}
    assert (await driver.read(server, 1.0)).generation == first.generation
    assert server.asked["/v1/models"] == 1
    await driver.read(server, LISTING_MAX_AGE_S)
    assert (server.asked["/v1/models"], server.asked["/server_info"]) == (2, 1)
    server.pages["/metrics"] = METRICS.replace("1000.0", "1.0").encode()
    assert (await driver.read(server, LISTING_MAX_AGE_S + 1)).generation != first.generation
    assert server.asked["/server_info"] == 2
