"""What spans say of requests: what is known, under the names of the conventions, and never a text."""

import pytest

from estimator.demand import Shape
from gateway.admission.commands import Admit
from gateway.domain import Reason
from gateway.reporting import span_attributes as said
from gateway.request import CHAT, COMPLETIONS, InferenceRequest
from tests.reporting.samples import record

CANARY = "the-canary-sings-at-dawn"


def request(endpoint: str = CHAT, model: str = "m") -> InferenceRequest:
    return InferenceRequest(endpoint, model, CANARY.encode(), {}, Shape(len(CANARY), max_tokens=7), stream=True)


def test_a_served_request() -> None:
    """What is not known is not said."""
    served = record(ttft_s=0.5, tenant="team", prompt_tokens=3, output_tokens=4)
    assert said.server_end(served) == {
        "http.response.status_code": 200,
        "gen_ai.request.model": "m",
        "kvgate.request_id": "r",
        "kvgate.tenant": "team",
        "kvgate.priority": "interactive",
        "kvgate.backend": "b",
        "kvgate.ttft_s": 0.5,
    }
    assert said.upstream_end(served, 0.25) == {
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 4,
        "gen_ai.response.time_to_first_chunk": 0.25,
    }


@pytest.mark.parametrize(
    ("hit_length", "sequences", "reasons"), [(True, 1, ("length",)), (True, 2, None), (False, 1, None)]
)
def test_why_an_answer_ended(hit_length: bool, sequences: int, reasons: tuple[str, ...] | None) -> None:
    """Only a limit that was hit is known, and only of a single answer which one hit it."""
    ended = said.upstream_end(record(hit_length=hit_length, sequences=sequences), None)
    assert ended.get("gen_ai.response.finish_reasons") == reasons


def test_decisions_have_their_numbers() -> None:
    admit = Admit(1, "b", Reason.OK_AFTER_WAIT, kv_tokens=64, waited_s=0.5)
    assert said.admission_granted("admitted_after_wait", admit) == {
        "kvgate.decision": "admitted_after_wait",
        "kvgate.reason": "ok_after_wait",
        "kvgate.backend": "b",
        "kvgate.need_tokens": 64,
        "kvgate.wait_s": 0.5,
    }
    refused = record(reason="headroom", need_tokens=512, headroom_tokens=48, retry_after_s=2.0, queue_wait_s=0.1)
    assert said.admission_denied(refused) == {
        "kvgate.decision": "refused",
        "kvgate.reason": "headroom",
        "kvgate.need_tokens": 512,
        "kvgate.headroom_tokens": 48,
        "kvgate.retry_after_s": 2.0,
        "kvgate.wait_s": 0.1,
    }
    assert said.admission_denied(record(disconnect="queued"))["kvgate.decision"] == "left"


@pytest.mark.parametrize(
    ("url", "address", "port"),
    [("http://10.0.0.1:8000", "10.0.0.1", 8000), ("https://api.x.ai/v1", "api.x.ai", 443), ("http://[::1]", "::1", 80)],
)
def test_where_it_was_sent(url: str, address: str, port: int) -> None:
    start = said.upstream_start(request(), "vllm", url)
    assert (start["server.address"], start["server.port"]) == (address, port)
    assert (start["gen_ai.operation.name"], start["gen_ai.provider.name"]) == ("chat", "vllm")
    assert (start["gen_ai.request.max_tokens"], start["gen_ai.request.stream"]) == (7, True)


def test_names_are_bounded_and_texts_are_not_there() -> None:
    """A client may write anything for a model's name."""
    long = request(COMPLETIONS, "y" * 1000)
    assert said.upstream_name(long) == f"text_completion {'y' * 256}"
    assert CANARY not in str(said.upstream_start(long, "vllm", "http://h"))
    assert len(str(said.server_end(record(model="y" * 1000))["gen_ai.request.model"])) == 256
