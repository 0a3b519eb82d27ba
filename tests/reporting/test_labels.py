"""Values of labels are known where code chooses them."""

import pytest

from gateway.reporting.families import DECISIONS, FAMILIES
from gateway.reporting.labels import closed_values

OPEN = {
    *("backend", "model_name", "endpoint", "tenant", "gpu", "name"),
    *("engine_version", "version", "revision", "python_version", "sha256"),
}


def test_every_label_is_closed_or_known_to_be_open() -> None:
    """A rule that compares a closed label with another value than these never matches."""
    opened = {
        (family.name, label)
        for family in FAMILIES
        for label in family.labels
        if label not in OPEN and not closed_values(family.name, label)
    }
    assert opened == {("requests_total", "code"), ("backend_info", "kind")}


@pytest.mark.parametrize(
    ("family", "label", "values"),
    [
        ("prediction_ratio", "kind", {"prompt", "output"}),
        ("backend_kv_reserved_tokens", "kind", {"resident", "predicted"}),
        ("admission_decisions_total", "reason", {reason for _, reason in DECISIONS}),
        ("telemetry_errors_total", "reason", {"connect", "timeout", "parse", "missing_metric"}),
        ("prediction_coverage_ratio", "level", {"0.5", "0.9", "0.99"}),
        ("backend_up", "backend", set()),
    ],
)
def test_one_word_may_have_other_values_in_another_family(family: str, label: str, values: set[str]) -> None:
    assert set(closed_values(family, label)) == values
