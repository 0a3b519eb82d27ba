"""The comparison with other estimators: what is asked, what is counted, what is admitted."""

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import peers_ask, peers_memory

GIB = 2**30
ROW: dict[str, Any] = {
    "id": "one",
    "engine": "vllm",
    "engine_version": "0.11.0",
    "model": "meta-llama/Llama-3.1-8B-Instruct",
    "gpu": "H100 80GB",
    "tp": 1,
    "pp": 1,
    "quant": None,
    "kv_dtype": "auto",
    "max_model_len": 8192,
    "gpu_memory_utilization": 0.9,
    "block_size": 16,
    "weights_gib": 14.99,
    "kv_gib": 50.0,
    "derived_kv_bytes_per_token": 131_072.0,
    "other": {"max_num_batched_tokens": 8192, "max_num_seqs": 256},
}
QUESTION: dict[str, Any] = {
    "model": "x",
    "config": {"text_config": {"layers": 2}, "quantization_config": {"quant_method": "awq"}},
    "engine": "vllm",
    "system": "h100_sxm",
    "memory_bytes": 80 * GIB,
    "utilization": 0.9,
    "tp": 2,
    "pp": 1,
    "kv_dtype": "fp8",
    "quantization": "awq",
    "batch_tokens": 8192,
    "batch_sequences": 256,
}


def fake_python(folder: Path, answers: dict[str, Any]) -> str:
    """A program that gives one answer to every question, and keeps the questions."""
    program = folder / "python"
    lines = [f"#!{sys.executable}", "import pathlib, sys"]
    lines.append("asked = sys.stdin.read(); pathlib.Path(__file__).with_name('asked').write_text(asked)")
    lines.append(f"print({json.dumps(answers)!r} + '\\n', end='') if asked else None")
    program.write_text("\n".join(lines))
    program.chmod(0o755)
    return str(program)


def test_one_row_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same settings for all; a row in which another one is closer is named, and what it cannot do."""
    other = {"kv_bytes_per_token": 65_536.0, "kv_gib": 50.0, "how": "native"}
    python = fake_python(tmp_path, {"hf-mem": {"error": "KeyError: 12345"}, "aiconfigurator": other})
    file = tmp_path / "logs.jsonl"
    rows = [ROW, ROW | {"id": "two", "engine": "llama.cpp"}, ROW | {"id": "three", "model": "no/such-thing"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert peers_memory.main([str(file), "--peers", python]) == 0
    out = capsys.readouterr().out
    asked = json.loads((tmp_path / "asked").read_text())
    assert (asked["system"], asked["tp"], asked["batch_sequences"]) == ("h100_sxm", 1, 256)
    assert asked["config"]["num_hidden_layers"] == 32
    assert "    one KV pool: aiconfigurator 0.00 %" in out
    assert "one KV bytes" not in out
    assert "1 nothing: KeyError: N" in out
    assert "1 pool by its way native" in out
    assert "'the model is not known': 1" in out
    figures = [line.split() for line in out.splitlines() if "aiconfigurator  " in line]
    assert figures[0] == ["aiconfigurator", "1", "50.00", "%", "50.00", "%", "50.00", "%", "0.00", "%"]


def test_silence_is_an_error(tmp_path: Path) -> None:
    """An environment without Python or script ends the comparison with its own words."""
    with pytest.raises(SystemExit, match="answered 0 of 1 questions"):
        peers_memory.ask("/bin/false", [QUESTION])


def test_hf_mem_is_asked_for_the_text_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quantised weights would make it refuse; ranks share what it says."""
    seen: list[Any] = []

    def kind(config: dict[str, Any], wanted: str | None, metadata: object, name: str) -> str:
        seen.append((config["layers"], "quantization_config" in config, wanted))
        return "F8_E4M3"

    rules = SimpleNamespace(
        resolve_kv_cache_dtype=kind, compute_safetensors_kv_cache_size=lambda config, kind, tokens: 100 * tokens
    )
    monkeypatch.setitem(sys.modules, "hf_mem", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "hf_mem.safetensors", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "hf_mem.safetensors.kv_cache", rules)
    assert peers_ask.ask_hf_mem(QUESTION) == {"kv_bytes_per_token": 50}
    assert seen == [(2, False, "fp8")]


class FakeMemory:
    """The other one's module, as far as it is used."""

    def __init__(self, *, native: bool, room: bool) -> None:
        self.native, self.room = native, room
        self.KVCacheEstimator = self
        self.asked: dict[str, Any] = {}

    def from_request(self, folder: str, *where: str, **settings: Any) -> SimpleNamespace:
        if not self.native:
            raise KeyError(folder)
        assert json.loads(Path(folder, "config.json").read_text()) == QUESTION["config"]
        return SimpleNamespace(breakdown={"kv_size_per_token_bytes": 7.0, "weights_bytes": 3 * GIB})

    def estimate_kv_cache(self, *where: str, **settings: Any) -> dict[str, Any]:
        self.asked = settings
        if not self.room:
            raise ValueError("no room")
        return {"kv_size_per_token_bytes": 9, "total_kv_size_bytes": 2 * GIB, "source": "here"}


@pytest.mark.parametrize(
    ("native", "room", "said"),
    [
        (True, True, {"kv_bytes_per_token": 7.0, "weights_gib": 3.0, "kv_gib": 2.0, "how": "here"}),
        (False, True, {"kv_bytes_per_token": 9, "kv_gib": 2.0, "how": "here"}),
        (True, False, {"kv_bytes_per_token": 7.0, "weights_gib": 3.0, "why_no_pool": "no room"}),
        (False, False, {"error": "ValueError: no room"}),
    ],
)
def test_aiconfigurator_is_given_its_own_words(
    monkeypatch: pytest.MonkeyPatch, native: bool, room: bool, said: dict[str, Any]
) -> None:
    """What it says counts, also where it finds no room for a pool."""
    fake = FakeMemory(native=native, room=room)
    for name in ("aiconfigurator_core", "aiconfigurator_core.sdk"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace())
    monkeypatch.setitem(sys.modules, "aiconfigurator_core.sdk.memory", fake)
    assert peers_ask.answer(QUESTION)["aiconfigurator"] == said
    assert fake.asked["gemm_quant_mode"] == "int4_wo"
    assert (fake.asked["memory_fraction_kind"], fake.asked["kvcache_quant_mode"]) == ("of_total", "fp8")


def test_what_is_not_installed_or_not_known_is_an_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line per question, whatever happens."""
    for name in ("hf_mem.safetensors.kv_cache", "aiconfigurator_core.sdk.memory"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(QUESTION) + "\n"))
    assert peers_ask.main() == 0
    said = json.loads(capsys.readouterr().out)
    assert {name: each["error"].partition(":")[0] for name, each in said.items()} == dict.fromkeys(
        ("hf-mem", "aiconfigurator"), "ModuleNotFoundError"
    )
