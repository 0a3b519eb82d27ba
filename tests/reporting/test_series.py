"""Series exist before anything happens, and are looked up without labels."""

from gateway.domain import Priority
from gateway.reporting.families import DECISIONS, NO_BACKEND
from gateway.reporting.record import RequestRecord
from gateway.reporting.registry import Families
from gateway.reporting.series import ModelSeries, ServedSeries


def test_a_model_brings_every_decision_for_every_class() -> None:
    model = ModelSeries(Families(), "m")
    assert set(model.asked) == set(Priority)
    assert set(model.asked[Priority.BATCH].decisions) == set(DECISIONS)


def test_a_decision_of_observe_mode_gets_its_series_when_it_comes() -> None:
    asked = ModelSeries(Families(), "m").asked[Priority.STANDARD]
    asked.decide("admitted", "headroom", 5, 0.0)
    asked.decide("admitted", "headroom", 5, 0.0)
    assert asked.decisions["admitted", "headroom"].value == 2
    assert asked.tokens["admitted"].value == 10


def test_without_a_backend_only_answers_are_counted() -> None:
    """No tokens are made by nobody."""
    families = Families()
    served = ServedSeries(families, "m", NO_BACKEND)
    served.end("/v1/estimate", RequestRecord("r", "/v1/estimate", "m", 200, 0.1))
    assert served.answered["/v1/estimate", 200].value == 1
    assert not hasattr(served, "output_tokens")
    assert ("/v1/completions", 429) in served.answered


def test_time_per_token_is_of_one_sequence_after_its_first_token() -> None:
    served = ServedSeries(Families(), "m", "b")
    record = RequestRecord("r", "/v1/completions", "m", 200, 3.0, ttft_s=1.0, output_tokens=22, sequences=2)
    served.count_tokens(record)
    assert served.tpot_s.sum == 0.2
    assert served.output_tokens.value == 22
