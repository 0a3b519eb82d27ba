"""`kvgate estimate` as it is typed."""

import json
import re
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from gateway.cli.estimate import estimate
from tests.estimator.gguf_bytes import tensor, write

APP = typer.Typer()
APP.command()(estimate)


def run(*arguments: str) -> Result:
    """Run the command."""
    return CliRunner().invoke(APP, list(arguments))


def test_a_request_is_priced_in_words() -> None:
    """Per token, blocks and bytes, per GPU and in all."""
    result = run("meta-llama/Llama-3.1-70B", "--prompt-tokens", "1024", "--max-tokens", "512", "--tp", "4", "--n", "2")
    assert result.exit_code == 0
    for words in ("81,920 B", "327,680 B", "192 on each", "with prefix cache", "0.2344", "0.9375", "1.0066"):
        assert words in result.output


def test_json_has_the_same_numbers() -> None:
    """One object with stable keys."""
    result = run("llama-3.1-8b", "--json", "--prompt-tokens", "1000", "--max-tokens", "25", "--kv-dtype", "fp8")
    answer = json.loads(result.stdout)
    assert (answer["blocks"], answer["tokens_per_sequence"]) == (64, 1024)
    assert answer["bytes"] == answer["bytes_per_gpu"] == 1024 * 65_536
    assert answer["gib"] == 0.0625
    assert answer["groups"][0]["bytes_per_block"] == 16 * 65_536


def test_hybrids_show_their_groups_and_notes() -> None:
    """Windows with the most they hold; what to know before trusting the number."""
    result = run("gemma-3-27b-it")
    assert "6 sliding groups of 10 layers" in result.output
    assert "at most 1,089 blocks a sequence" in result.output
    assert "Note: With speculative decoding" in run("deepseek-ai/DeepSeek-R1").output
    assert "Doubt: The name does not say how its weights are stored" in run("unsloth/gemma-3-27b-it-GGUF").output
    assert "Weights: 5.2" in run("Qwen/Qwen2.5-7B-Instruct-AWQ").output


def test_the_list_of_known_models() -> None:
    """A table with sources below it; the same as JSON."""
    answer = json.loads(run("--list", "--json").stdout)["models"]
    assert len(answer) >= 120
    known = {row["id"]: row for row in answer}
    assert known["meta-llama/Meta-Llama-3.1-70B"] | {"source": ""} == {
        "id": "meta-llama/Meta-Llama-3.1-70B",
        "architecture": "LlamaForCausalLM",
        "parameters": 70_553_706_496,
        "quantization": "",
        "context_tokens": 131_072,
        "kv_bytes_per_token": 327_680,
        "source": "",
    }
    assert all(re.search(r", \d{4}-\d\d-\d\d$", row["source"]) for row in answer)
    lines = run("--list").stdout.splitlines()
    (line,) = [line for line in lines if line.startswith("meta-llama/Meta-Llama-3.1-70B ")]
    for words in ("LlamaForCausalLM", "70.6 B", "131,072", "327,680", "["):
        assert words in line
    assert any(line.startswith("[1] ") for line in lines)


def test_weights_of_a_gguf_file(tmp_path: Path) -> None:
    """A file is a model like any other; its weights are counted tensor by tensor."""
    metadata = {"general.architecture": "llama", "llama.block_count": 2, "llama.embedding_length": 64}
    metadata |= {"llama.attention.head_count": 2, "llama.context_length": 4096}
    path = write(tmp_path / "m.gguf", metadata, [tensor("blk.0.ffn_up.weight", (2**15, 2**15))])
    assert "Weights: 2.00 GiB on each GPU (1.07 billion parameters" in run(str(path)).output
    assert json.loads(run(str(path), "--json").stdout)["weights_bytes_per_gpu"] == 2**31


def test_tables() -> None:
    """Both readings of the 405B row, and the caveats."""
    result = run("--tables")
    assert result.exit_code == 0
    for words in ("123.047", "61.523", "202.5", "is 168 GB", "is 42 GB", "16 KV heads"):
        assert words in result.output
    answer = json.loads(run("--tables", "--json").stdout)
    assert len(answer["kv_gib"]) == 12
    assert len(answer["weights_gb"]) == 9
    assert answer["rule_of_thumb_gb"]["16"] == pytest.approx(168)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["no-such-model"], 1, "'no-such-model' is no file"),
        (["llama-3.1-8b", "--tp", "3"], 1, "tp 3 does not divide"),
        (["llama-3.1-8b", "--prompt-tokens", "131073"], 1, "exceed the context"),
        (["llama-3.1-8b", "--n", "0"], 2, "--n"),
        ([], 2, "give a model"),
    ],
)
def test_mistakes_end_with_a_sentence(arguments: list[str], code: int, words: str) -> None:
    """Exit 1 for a problem found, 2 for wrong usage, never a traceback."""
    result = run(*arguments)
    assert result.exit_code == code
    assert words in result.output
    assert "Traceback" not in result.output
