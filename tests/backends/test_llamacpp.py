import pytest

from gateway.backends.engine import LISTING_MAX_AGE_S, Fault, TelemetryError
from gateway.backends.llamacpp import LlamaCpp, Slot, used_tokens
from gateway.backends.pool import StatedPool
from tests.backends.pages import UNSTATED, Page, Pages, recorded


def pages(kind: str, moment: str = "", **more: Page) -> Pages:
    """A real server, with one cache for all slots ("unified") or one each ("split")."""
    return Pages(
        {
            "/props": recorded(f"llamacpp/props-{kind}.json"),
            "/slots": recorded(f"llamacpp/slots-{kind}{moment}.json"),
            "/metrics": recorded(f"llamacpp/metrics-{kind}{moment}.txt"),
            "/v1/models": recorded(f"llamacpp/models-{kind}.json"),
        }
        | {f"/{path}": page for path, page in more.items()}
    )


def llamacpp(models: dict[str, str] | None = None, stated: StatedPool = UNSTATED) -> LlamaCpp:
    """A driver under test."""
    return LlamaCpp("one", models or {}, stated)


@pytest.mark.parametrize(("kind", "context"), [("unified", 1024), ("split", 256)])
async def test_a_real_server_at_rest(kind: str, context: int) -> None:
    """One slot's context is all that is believed to be there: no page tells whether slots share it."""
    reading = await llamacpp().read(pages(kind), 2.0)
    assert reading.capacity is not None
    assert (reading.capacity.blocks, reading.capacity.layout.block_tokens) == (context, 1)
    assert (reading.capacity.sequence_tokens_max, reading.capacity.sequences_max) == (context, 4)
    assert (reading.used_blocks, reading.running, reading.waiting, reading.work_done) == (0, 0, 0, 0.0)
    assert reading.asked_at == 2.0
    assert reading.models == {"tiny"}


async def test_a_split_cache_that_the_operator_knows_of() -> None:
    """The stated pool counts; a sequence still has one slot's part."""
    reading = await llamacpp(stated=StatedPool(capacity_tokens=1024)).read(pages("split", "-busy"), 0.0)
    assert reading.capacity is not None
    assert (reading.capacity.blocks, reading.capacity.sequence_tokens_max) == (1024, 256)
    assert reading.used_blocks == 37 * 3


@pytest.mark.parametrize("kind", ["unified", "split"])
async def test_a_real_server_under_load(kind: str) -> None:
    """Busy slots hold their prompts and what they generated; an idle slot's leftovers do not count."""
    reading = await llamacpp().read(pages(kind, "-busy"), 0.0)
    assert reading.running == 3
    assert reading.used_blocks is not None
    assert 3 * 32 < reading.used_blocks < 3 * 45
    assert reading.work_done is not None
    assert reading.work_done > 0
    after = await llamacpp().read(pages(kind, "-after"), 0.0)
    assert (after.used_blocks, after.running) == (0, 0)


async def test_pages_that_are_switched_off() -> None:
    """Without `--metrics` and `--slots` its use is unknown, and everything else still known."""
    reading = await llamacpp().read(pages("unified", slots=(501, b"{}"), metrics=(501, b"{}")), 0.0)
    assert (reading.used_blocks, reading.running, reading.waiting, reading.work_done) == (None, None, None, None)
    assert reading.capacity is not None


async def test_any_configured_name_is_served() -> None:
    """It does not look at the name in a request, so the operator's names need not be listed."""
    assert (await llamacpp({"mine": "whatever"}).read(pages("unified"), 0.0)).models == {"mine"}


async def test_restarts_and_the_age_of_the_listing() -> None:
    """A new start shows in its random marker, in a falling counter, or in another context."""
    driver, server = llamacpp(), pages("unified", "-busy")
    first = await driver.read(server, 0.0)
    assert (await driver.read(server, 1.0)).generation == first.generation
    assert server.asked["/v1/models"] == 1
    await driver.read(server, LISTING_MAX_AGE_S)
    assert server.asked["/v1/models"] == 2
    server.pages["/metrics"] = recorded("llamacpp/metrics-unified.txt")
    second = await driver.read(server, LISTING_MAX_AGE_S + 1)
    server.pages["/props"] = recorded("llamacpp/props-split.json")
    third = await driver.read(server, LISTING_MAX_AGE_S + 2)
    assert len({first.generation, second.generation, third.generation}) == 3


@pytest.mark.parametrize(
    ("path", "page", "reason"),
    [
        ("props", (503, b'{"error":{"message":"Loading model"}}'), Fault.MISSING_METRIC),
        ("props", b'{"total_slots":4}', Fault.PARSE),
        ("props", b'{"default_generation_settings":{"n_ctx":0},"total_slots":4}', Fault.PARSE),
        ("props", b'{"default_generation_settings":{"n_ctx":1e99},"total_slots":4}', Fault.PARSE),
        ("props", b'{"default_generation_settings":{"n_ctx":64},"total_slots":0}', Fault.PARSE),
        ("slots", (500, b""), Fault.MISSING_METRIC),
        ("slots", b"{}", Fault.PARSE),
        ("slots", b'[{"is_processing":true,"n_prompt_tokens":-1}]', Fault.PARSE),
        ("metrics", b"llamacpp:n_decode_total x\n", Fault.PARSE),
        ("metrics", b"llamacpp:n_decode_total NaN\n", Fault.PARSE),
    ],
)
async def test_pages_of_no_use(path: str, page: Page, reason: Fault) -> None:
    """Each is refused as a telemetry error of its kind."""
    server = pages("unified")
    server.pages[f"/{path}"] = page
    with pytest.raises(TelemetryError) as error:
        await llamacpp().read(server, 0.0)
    assert error.value.reason is reason


def test_used_tokens_bounds() -> None:
    """A sum that no memory could hold is refused."""
    assert used_tokens([Slot(True, 5), Slot(False, 9), Slot(True, 1)]) == 6
    with pytest.raises(TelemetryError):
        used_tokens([Slot(True, 2**60)])
