"""`kvgate replay`: traces and journals, policies, JSON, pictures, and clear errors."""

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.cli.command import kvgate

CONTRACT = [
    "policy", "goodput", "attainment", "refused", "preemptions_per_request", "kv_utilisation", "ttft_p99_s",
    "tpot_p99_s",
]  # fmt: skip


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Sixty requests, three per second, of all sizes."""
    rows = [f"{number / 3:.3f},{200 + number * 37 % 900},{10 + number * 29 % 150}\n" for number in range(60)]
    path = tmp_path / "trace.csv"
    path.write_text("arrival_s,prompt_tokens,output_tokens\n" + "".join(rows), encoding="utf-8")
    return path


def test_compares_policies_in_a_table(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line about the replay, one about what is good, and a row per policy; no colour, no bar."""
    done = kvgate(capsys, "replay", trace, "--engine-profile", "8b-l4", "--policy", "none", "--policy", "max-tokens")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0].startswith("trace.csv: 60 requests on 1 x 8b-l4 (32,800 KV tokens, ")
    assert lines[1] == "Good: first token within 2 s, then 200 ms per token."
    assert [line.split()[0] for line in lines[3:]] == ["policy", "none", "max-tokens"]
    assert "\x1b" not in done.out


def test_the_same_seed_gives_the_same_json(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Keys as promised to programs; another seed draws another `max_tokens`."""
    command = ("replay", trace, "--engine-profile", "8b-l4", "--load", 1.5, "--policy", "max-tokens", "--json")
    done = kvgate(capsys, *command, "--seed", 3)
    content = json.loads(done.out)
    assert (content["trace"], content["load"], content["seed"]) == ("trace.csv", 1.5, 3)
    (result,) = content["results"]
    assert [key for key in CONTRACT if key not in result] == []
    assert result["policy"] == "max-tokens"
    assert 0 < result["attainment"] < 1
    assert kvgate(capsys, *command, "--seed", 3).out == done.out
    assert kvgate(capsys, *command, "--seed", 4).out != done.out


def test_runs_the_gateway_itself_by_default(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Beside no gateway at all; overloaded, it serves more of them well."""
    done = kvgate(capsys, "replay", trace, "--engine-profile", "8b-l4", "--load", 3, "--replicas", 2, "--json")
    content = json.loads(done.out)
    assert content["requests"] == 120
    gateway, bare = content["results"]
    assert (gateway["policy"], bare["policy"]) == ("kvgate", "none")
    assert gateway["decisions"] == 120
    assert gateway["attainment"] >= bare["attainment"]


def test_asks_what_if_of_a_journal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """More replicas, larger pools, shorter answers: with what the gateway wrote down itself."""
    journal = tmp_path / "journal.jsonl"
    lines = [
        {"arrived_s": 1e6 - number, "model": "m", "prompt_tokens": 900, "output_tokens": 80 if number % 4 else None}
        for number in range(20)
    ]
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    command = ("replay", journal, "--policy", "none", "--engine-profile", "8b-l4", "--json")
    now = json.loads(kvgate(capsys, *command).out)
    more = json.loads(kvgate(capsys, *command, "--replicas", 4, "--kv-tokens", 65600, "--max-tokens-cap", 8).out)
    assert now["requests"] == more["requests"] == 20
    assert now["load"] > 4 * more["load"]
    assert more["results"][0]["ttft_p99_s"] < now["results"][0]["ttft_p99_s"]
    assert kvgate(capsys, *command, "--model", "n").code == 1


def test_slos_can_be_given(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody meets an absurd one."""
    slo = ("--engine-profile", "8b-l4", "--ttft-slo-s", 0.001, "--ttft-slo-per-1k-s", 0.001, "--tpot-slo-s", 0.001)
    done = kvgate(capsys, "replay", trace, *slo, "--policy", "none", "--requests", 10)
    assert "first token within 0.001 s + 0.001 s per 1000 prompt tokens, then 1 ms per token" in done.out
    assert " 0.0% " in done.out


def test_draws_a_picture(trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An SVG file; where it cannot be written, a sentence."""
    command = ("replay", trace, "--engine-profile", "8b-l4", "--policy", "none", "--requests", 10, "--plot")
    assert kvgate(capsys, *command, tmp_path / "replay.svg").code == 0
    assert ET.parse(tmp_path / "replay.svg").getroot().tag.endswith("svg")
    done = kvgate(capsys, *command, tmp_path / "no" / "replay.svg")
    assert (done.code, done.err.count("\n")) == (1, 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"arrival_s,prompt_tokens\n", "Line 1: the trace has no column output_tokens."),
        (b"arrival_s,prompt_tokens,output_tokens\n1,1,1\n0,1,1\n", "Line 3: arrival_s is 0, before the 1 above it."),
        (b"arrival_s,prompt_tokens,output_tokens\n", "The trace is empty: it has no request."),
        (
            b"arrival_s,prompt_tokens,output_tokens\n0,999999,1\n",
            "No request fits an engine that takes 131,072 tokens.",
        ),
        (b"{}\n", "Line 1: arrived_s is missing."),
        (b"arrival_s\xff\n", "is not UTF-8 text."),
    ],
)
def test_a_bad_trace_is_one_sentence(
    content: bytes, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the line's number, and exit 1."""
    path = tmp_path / "trace.csv"
    path.write_bytes(content)
    done = kvgate(capsys, "replay", path, "--policy", "none")
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert done.err.endswith(f"{message}\n")


@pytest.mark.parametrize("options", [("--policy", "abacus"), ("--engine-profile", "abacus"), ("--load", "-1")])
def test_wrong_usage_exits_2(trace: Path, options: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """And says what there is."""
    done = kvgate(capsys, "replay", trace, *options)
    assert (done.code, done.out) == (2, "")


def test_a_missing_file_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With its name."""
    done = kvgate(capsys, "replay", tmp_path / "none.csv")
    assert (done.code, done.err) == (1, f"Error: {tmp_path / 'none.csv'} cannot be read: No such file or directory.\n")
