import pytest

from gateway.backends.detect import detect
from gateway.backends.engine import TelemetryError
from gateway.backends.upstream import FailureKind, UpstreamFailure
from tests.backends.pages import Page, Pages, recorded

LISTING = recorded("vllm/models.json")


@pytest.mark.parametrize(
    ("kind", "pages"),
    [
        ("vllm", {"/metrics": recorded("vllm/metrics.txt")}),
        ("sglang", {"/metrics": b"# TYPE x gauge\nsglang:token_usage 0.0\n"}),
        ("sglang", {"/metrics": b"sglang_token_usage 0.0\n"}),
        (
            "llamacpp",
            {"/metrics": recorded("llamacpp/metrics-split.txt"), "/props": recorded("llamacpp/props-split.json")},
        ),
        ("llamacpp", {"/metrics": (501, b"{}"), "/props": recorded("llamacpp/props-split.json")}),
        ("openai", {"/v1/models": LISTING}),
        ("openai", {"/metrics": b"go_goroutines 5\n", "/props": b"<html>", "/v1/models": LISTING}),
        ("openai", {"/v1/models": (401, b"{}")}),
    ],
)
async def test_kinds(kind: str, pages: dict[str, Page]) -> None:
    """Each is known by a page that only it has; a list of models alone makes a provider."""
    assert await detect(Pages(pages)) == kind


@pytest.mark.parametrize(
    "pages",
    [
        {},
        {"/v1/models": b"<html>"},
        {"/metrics": (503, b""), "/v1/models": LISTING},
        {"/props": (503, b'{"error":{"message":"Loading model"}}'), "/v1/models": LISTING},
        {"/v1/models": (500, b"")},
    ],
)
async def test_nothing_is_guessed(pages: dict[str, Page]) -> None:
    """An engine that still loads must not be taken for a provider, which would be sent everything."""
    with pytest.raises(TelemetryError):
        await detect(Pages(pages))


async def test_nobody_there() -> None:
    """The failure of the connection is passed on."""
    with pytest.raises(UpstreamFailure):
        await detect(Pages({"/metrics": UpstreamFailure(FailureKind.CONNECT, "gone", request_sent=False)}))
