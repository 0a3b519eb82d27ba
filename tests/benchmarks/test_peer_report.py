"""The tables, from figures that are made up."""

from benchmarks.native_load import Outcome
from benchmarks.peer_report import Figures, Sample, text

STREAMS = (200, 1000)


def sample(cpu_us: float, *, errors: int = 0, kilo_instructions: float | None = None, load: float = 0.2) -> Sample:
    outcome = Outcome(100, errors, "cut off" if errors else "", 0, 2.0, 10, 1000, 2000, 1000, 2500)
    return Sample(cpu_us, kilo_instructions, 0.5, load, outcome)


def figures(*cpu_us: float) -> Figures:
    return of(*map(sample, cpu_us))


def of(*samples: Sample) -> Figures:
    return Figures(samples={"short_1": list(samples)})


def row(tables: str, title: str, name: str) -> list[str]:
    """Of the table with this title."""
    table = next(part for part in tables.split("\n\n") if part.startswith(f"| {title} |"))
    line = next(line for line in table.splitlines() if line.startswith(f"| {name} |"))
    return line.strip("| ").split(" | ")


def test_medians_count_and_a_figure_that_is_missing_is_a_dash() -> None:
    """Over the rounds."""
    tables = text({"kvgate": figures(30, 10, 20)}, STREAMS, set())
    assert row(tables, "CPU µs", "kvgate")[1:3] == ["20.0", "–"]


def test_ratios_are_to_nginx_and_to_the_best_of_the_routers() -> None:
    """The best is the cheapest; the engine alone has none."""
    results = {
        "direct": figures(1),
        "kvgate": figures(20),
        "nginx": figures(10),
        "one": figures(80),
        "two": figures(40),
    }
    tables = text(results, STREAMS, {"one", "two"})
    assert row(tables, "CPU ÷ nginx", "kvgate")[1] == "2.00"
    assert row(tables, "CPU ÷ best Rust router", "kvgate")[1] == "0.50"
    assert "| direct | 0.10" not in tables


def test_without_what_is_compared_to_there_are_no_ratios() -> None:
    """Nor empty tables."""
    assert "÷" not in text({"kvgate": figures(20)}, STREAMS, {"one"})


def test_instructions_are_shown_where_they_are_counted() -> None:
    """Else it says that they are not."""
    counted = text({"kvgate": of(sample(20, kilo_instructions=123.0))}, STREAMS, set())
    assert row(counted, "1,000 instructions", "kvgate")[1] == "123"
    assert "Instructions: n/a" in text({"kvgate": figures(20)}, STREAMS, set())


def test_errors_and_a_load_that_was_slow_are_said() -> None:
    """Figures of such a run are not worth much."""
    said = text({"kvgate": of(sample(20, errors=3, load=0.95))}, STREAMS, set())
    assert "kvgate, short_1: 3 errors, the first: cut off." in said
    assert "95% of their CPU" in said
    assert "That is nearly all" in said


def test_what_a_gateway_adds_to_the_first_token_is_what_is_more_than_without_it() -> None:
    """At the same rate."""
    with_it = Figures(samples={}, first_token=sample(1), first_token_direct=sample(1))
    assert with_it.added_first_token_ms == 0
    assert Figures().added_first_token_ms is None
