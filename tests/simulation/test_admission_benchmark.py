"""The proof of admission: cells, the oracle, disturbances, tables and the figure, on a made-up trace."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from benchmarks import admission, admission_robustness
from benchmarks.admission_cells import (
    CELLS,
    CellRow,
    Measured,
    Plan,
    learned_before,
    measure_cell,
    prepared,
    trace_of,
    warm,
    wrongful,
)
from benchmarks.admission_oracle import ORDERS, VARIANTS, oracle, run_variant
from benchmarks.admission_plot import admission_svg
from benchmarks.admission_report import oracles, summary, verdicts
from benchmarks.admission_robustness import GROUPS, ROBUST_CELLS, measure_group, robustness_table
from gateway.admission import queue
from gateway.simulation.policies import policy_named, run
from gateway.simulation.results import Result

CELL = next(cell for cell in CELLS if cell.name == "70b-2xh100/azure2023_conv")
ROWS = 200
HISTORY = 50
FEW = VARIANTS[:2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one trace, whose answers are short so that replays are."""
    rng = random.Random(7)
    lines, now = ["arrival_s,prompt_tokens,output_tokens"], 0.0
    for _ in range(ROWS):
        lines.append(f"{now:.3f},{rng.randint(50, 3000)},{rng.randint(2, 60)}")
        now += rng.expovariate(5.0)
    path = tmp_path_factory.mktemp("traces")
    (path / f"{CELL.trace}.dev.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def result(name: str, attainment: float, *, preemptions: float = 0.0) -> Result:
    """Of a policy that refused half."""
    return Result(name, 1.0, attainment, 50, preemptions, 0.5, 1.0, 0.1, 0.0, 100)


def row(cell: str, load: float, of_oracle: float, *, preemptions: float = 0.0) -> CellRow:
    """Measured in no time."""
    one = Measured(result("kvgate", of_oracle, preemptions=preemptions), of_oracle, 0.25)
    none = Measured(result("none", 0.1, preemptions=math.nan), 0.1, 0.0)
    return CellRow(cell, load, 100, 9.0, "aged", {"aged": 1.0}, result("oracle", 1.0), {"kvgate": one, "none": none})


def test_a_cell_holds_every_policy_against_the_best_variant(folder: Path) -> None:
    """The oracle is as good as its best variant, and the parts are of what that served in time."""
    plan = Plan(folder, requests=80, variants=FEW)
    measured = measure_cell(plan, CELL, 1.5)
    assert measured.requests == 80
    assert measured.oracle_result.attainment == max(measured.variants.values()) == measured.variants[measured.oracle]
    for one in measured.policies.values():
        assert one.of_oracle == pytest.approx(one.result.attainment / measured.oracle_result.attainment)
        assert 0 <= one.wrongful <= one.result.refused / 80
    assert measured.policies["concurrency:best"].limit is not None
    best, hundred = (measured.policies[name].result for name in ("concurrency:best", "concurrency:100"))
    assert best.attainment >= hundred.attainment - 0.05


def test_a_warm_gateway_starts_after_its_history(folder: Path) -> None:
    """What it has learned from is not replayed, and it decides otherwise than one that has learned nothing."""
    plan = Plan(folder, requests=60, policies=("kvgate",), variants=FEW, is_warm=True, history=HISTORY)
    measured = measure_cell(plan, CELL, 1.5)
    later = prepared(plan, CELL, 1.5, skipped=HISTORY)
    assert measured.requests == len(later.requests) == 60
    assert measured.span_s == later.requests[-1].arrives_s
    cold = run(policy_named("kvgate"), later.setup, later.requests)
    learned = run(warm(learned_before(plan, CELL, 1.5)), later.setup, later.requests)
    assert learned.ended_s != cold.ended_s


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_a_clairvoyant_gateway_preempts_nobody(folder: Path, variant: object) -> None:
    """And what it changed of the product for its run is as it was."""
    chosen = next(each for each in VARIANTS if each == variant)
    replay = prepared(Plan(folder, requests=60), CELL, 2.0)
    record = run_variant(chosen, replay.setup, replay.requests)
    assert record.preemptions == 0
    assert record.settled == 60
    assert ORDERS["aged"] == queue.AGEING


def test_variants_differ(folder: Path) -> None:
    """In whom they serve when there is too much to do."""
    replay = prepared(Plan(folder, requests=80), CELL, 3.0)
    chosen = [variant for variant in VARIANTS if variant.knows_steps]
    refused = {
        tuple(at is None for at in run_variant(variant, replay.setup, replay.requests).refused_s) for variant in chosen
    }
    assert len(refused) > 2


def test_the_oracle_is_the_best_for_those_who_count(folder: Path) -> None:
    """Not for all."""
    replay = prepared(Plan(folder, requests=60), CELL, 2.0)
    counted = range(30, 60)
    best = oracle(replay.setup, replay.requests, counted, FEW)
    assert best.attainment == max(best.attainments.values())
    assert wrongful(best.record, best.record, replay.requests, replay.setup) == 0
    nobody = run(policy_named("none"), replay.setup, replay.requests)
    assert wrongful(nobody, best.record, replay.requests, replay.setup) == 0


@pytest.mark.parametrize("group", GROUPS)
def test_disturbances(folder: Path, group: str) -> None:
    """Each case is there, with what is counted of it a part of something."""
    trials = measure_group(Plan(folder, requests=40, history=HISTORY), ROBUST_CELLS[0], group)
    assert trials
    for trial in trials:
        for score in (trial.undisturbed, trial.disturbed):
            assert 0 <= score.attainment <= 1
            assert 0 < score.oracle <= 1
    lines = list(robustness_table(trials))
    assert len(lines) == 2 + len(trials)


def test_an_adversary_asks_for_much_from_mid_run_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One key, a quarter of all requests; what others get does not change; they alone count."""
    runs: list[admission_robustness.Run] = []

    def score(self: admission_robustness.Run, *_: object, **__: object) -> admission_robustness.Score:
        runs.append(self)
        return admission_robustness.Score(1.0, 1.0, 0.0)

    monkeypatch.setattr(admission_robustness.Run, "score", score)
    measure_group(Plan(folder, requests=80), ROBUST_CELLS[0], "adversary")
    modest, greedy = runs[:2]
    changed = [
        number for number, (one, other) in enumerate(zip(modest.requests, greedy.requests, strict=True)) if one != other
    ]
    assert changed == list(range(40, 80, 4))
    assert {greedy.requests[number].output_tokens for number in changed} == {4000}
    assert not set(changed) & set(greedy.counted)
    assert [each.setup.kv_share for each in runs] == [0.5, 0.5, 1.0, 1.0]


def test_longer_answers_come_at_the_same_load(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second half, at the pace that an engine can do of it."""
    runs: list[admission_robustness.Run] = []

    def score(self: admission_robustness.Run, *_: object, **__: object) -> admission_robustness.Score:
        runs.append(self)
        return admission_robustness.Score(1.0, 1.0, 0.0)

    monkeypatch.setattr(admission_robustness.Run, "score", score)
    measure_group(Plan(folder, requests=80), ROBUST_CELLS[0], "shift")
    plain, longer = (each.requests for each in runs)
    assert plain[:40] == longer[:40]
    assert [6 * each.output_tokens for each in plain[40:]] == [each.output_tokens for each in longer[40:]]
    assert all(each.max_tokens is None or each.output_tokens <= each.max_tokens for each in longer)
    assert longer[-1].arrives_s > plain[-1].arrives_s
    assert [each.arrives_s for each in longer] == sorted(each.arrives_s for each in longer)


def test_targets() -> None:
    """Means at each load, the worst cell, preemptions where load is small; larger loads promise nothing."""
    rows = [row("a", 1.0, 0.99), row("b", 1.0, 0.96), row("a", 1.5, 0.99), row("b", 1.5, 0.89, preemptions=0.5)]
    rows += [row("a", 2.0, 0.1, preemptions=0.9)]
    found = verdicts(rows)
    assert [verdict.is_met for verdict in found] == [True, False, False, True]
    assert [round(verdict.value, 3) for verdict in found] == [0.975, 0.94, 0.89, 0.0]
    assert "b at 1.5" in found[2].sentence
    assert verdicts([replace(rows[0], policies={})]) == []


def test_the_summary_shows_means_and_the_worst() -> None:
    """Of each policy at each load; one that served nobody preempted nobody."""
    text = "\n".join(summary([row("a", 1.0, 0.99), row("b", 1.0, 0.97)]))
    assert "98.0 (97.0)" in text
    assert "50.0 (25.0)" in text
    assert "nan" in text
    assert oracles([row("a", 1.0, 0.99)]).endswith("aged (1).")


def test_the_figure_is_well_formed() -> None:
    """A line per policy in each chart, also where there is but one load."""
    rows = [row("a", 1.0, 0.99), row("a", 1.5, 1.2)]
    for some in (rows, rows[:1]):
        svg = ET.fromstring(admission_svg(some))
        lines = svg.findall("{http://www.w3.org/2000/svg}polyline")
        assert len(lines) == 2 * 3
        assert "KVGate" in "".join(svg.itertext())


def test_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Tables, verdicts, files."""
    json_file, plot = tmp_path / "a.json", tmp_path / "a.svg"
    common = [str(folder), "--cells", CELL.name, "--requests", "60", "--jobs", "1"]
    policies = ["--policies", "kvgate,none", "--loads", "0.5", "--details"]
    status = admission.main([*common, *policies, "--json", str(json_file), "--plot", str(plot)])
    printed = capsys.readouterr().out
    assert status == int("MISS" in printed)
    assert "PASS" in printed
    content = json.loads(json_file.read_text())
    assert content["rows"][0]["policies"]["none"]["result"]["policy"] == "none"
    assert plot.read_text().startswith("<svg")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--cells", "a/b"], "'a/b' is none of"),
        (["--loads", "0"], "loads are above 0"),
        (["--policies", "luck"], "'luck' is none of"),
        (["--requests", "0"], "no whole number from 1 on"),
        ([], "has no servegen"),
    ],
)
def test_mistakes(folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str) -> None:
    """Each is named, and nothing is run."""
    with pytest.raises(SystemExit) as raised:
        admission.main([str(folder), *arguments])
    assert raised.value.code == 2
    assert says in capsys.readouterr().err


def test_a_trace_may_be_whole_or_in_parts(folder: Path, tmp_path: Path) -> None:
    """A file of its name is preferred to one of its parts."""
    assert len(trace_of(folder, CELL).rows) == ROWS
    (tmp_path / f"{CELL.trace}.csv").write_text("arrival_s,prompt_tokens,output_tokens\n0,1,1\n")
    (tmp_path / f"{CELL.trace}.dev.csv").write_text("arrival_s,prompt_tokens,output_tokens\n0,1,1\n1,1,1\n")
    assert len(trace_of(tmp_path, CELL).rows) == 1
