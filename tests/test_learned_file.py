"""What was learned outlives the gateway, and no file that anybody could leave behind stops one."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
import random
import stat
from pathlib import Path

import pytest
from hypothesis import assume, given, settings, strategies as st
from structlog.testing import capture_logs

from estimator.demand import End, Shape
from estimator.output_length import RESTORED_ANSWERS_MAX, OutputForecast
from gateway.domain import Usage
from gateway.learned_file import (
    FILE_MAX_BYTES,
    MODELS_MAX,
    VERSION,
    LearnedFile,
    LearnedFileError,
    encoded,
    remembered,
    restore,
)
from gateway.pricing import Answer, Pricing

Taught = list[tuple[str, int, int, bool]]
"""Model, prompt tokens, output tokens, came to its own end."""
TAUGHT = st.lists(
    st.tuples(st.sampled_from(["a", "org/b-1", "ü"]), st.integers(0, 10**6), st.integers(0, 10**6), st.booleans()),
    max_size=60,
)


class Watched(LearnedFile):
    """Tells when it has been saved."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.saved = asyncio.Event()

    async def save(self, pricing: Pricing) -> None:
        await super().save(pricing)
        self.saved.set()


def fresh() -> Pricing:
    return Pricing(lambda model, forecast: None)


def taught(lessons: Taught) -> Pricing:
    """A pricing that has seen these requests."""
    pricing = fresh()
    for model, prompt_tokens, output_tokens, ended in lessons:
        answer = Answer(model, Shape(prompt_tokens * 4 + 1, messages=2), pricing.of(model).told)
        end = End.STOP if ended else End.LENGTH
        pricing.learn(answer, Usage(prompt_tokens, output_tokens), end, events=output_tokens // 2)
    return pricing


def well_taught(count: int = 800) -> Pricing:
    """A pricing that knows one model."""
    rng = random.Random(1)
    return taught([("a", rng.randint(50, 500), rng.randint(20, 300), True) for _ in range(count)])


def content(pricing: Pricing) -> bytes:
    return encoded(remembered(pricing))


CONTENT = content(well_taught(100))


def with_models(models: bytes) -> bytes:
    """A file whose checksum is right, whatever it holds."""
    digest = hashlib.sha256(models).hexdigest()
    return b'{"kvgate_learned":%d,"sha256":"%s","models":%s}' % (VERSION, digest.encode(), models)


def altered(**fields: object) -> bytes:
    """A file in which one model's fields are others."""
    model = json.loads(CONTENT)["models"]["a"]
    return with_models(json.dumps({"a": {**model, **fields}}).encode())


@given(TAUGHT)
@settings(deadline=None, max_examples=40)
def test_what_is_saved_comes_back(lessons: Taught) -> None:
    """Lengths of prompts and answers, tokens per event, coverage; and saving what came back saves the same."""
    before, after = taught(lessons), fresh()
    assert restore(content(before), after) == len(before.models())
    for model, was in before.models().items():
        now = after.of(model)
        shape = Shape(4000, messages=3)
        assert now.demand.prompt_lengths.expected(shape.terms) >= 0
        assert now.demand.prompt_lengths.evidence() == was.demand.prompt_lengths.evidence()
        assert now.tokens_per_event == was.tokens_per_event
        assert now.calibration.samples == was.calibration.samples
        for q in (0.5, 0.9):
            coverage = was.calibration.coverage(q)
            expected = None if coverage is None else pytest.approx(coverage, abs=1e-3)
            assert now.calibration.coverage(q) == expected
    assert json.loads(content(after)).keys() == json.loads(content(before)).keys()


def test_a_restored_model_forecasts_as_before_but_counts_less() -> None:
    """So it follows what is new sooner; whoever is told of forecasts hears of it."""
    heard: list[tuple[str, OutputForecast]] = []
    before = well_taught()
    after = Pricing(lambda model, forecast: heard.append((model, forecast)))
    assert restore(content(before), after) == 1
    ((model, forecast),) = heard
    assert model == "a"
    assert forecast.quantile(0.5) == pytest.approx(before.of("a").told.quantile(0.5), rel=0.05)
    assert after.of("a").demand.output_lengths.counts().reached[0] <= RESTORED_ANSWERS_MAX * (1 + 1e-5)


@given(st.integers(0, len(CONTENT) - 2))
@settings(deadline=None, max_examples=60)
def test_a_file_cut_short_is_refused(length: int) -> None:
    """At whatever byte; only its last line break can go."""
    pricing = fresh()
    with pytest.raises(LearnedFileError):
        restore(CONTENT[:length], pricing)
    assert pricing.models() == {}


@given(st.lists(st.tuples(st.integers(0, len(CONTENT) - 2), st.integers(1, 255)), min_size=1, max_size=4))
@settings(deadline=None, max_examples=200)
def test_a_file_with_flipped_bytes_is_refused_or_means_the_same(flips: list[tuple[int, int]]) -> None:
    """Where the checksum is not concerned (its own name, white space), what is read is what was saved."""
    damaged = bytearray(CONTENT)
    for at, bits in flips:
        damaged[at] ^= bits
    pricing = fresh()
    try:
        restore(bytes(damaged), pricing)
    except LearnedFileError:
        assert pricing.models() == {}
    else:
        assert pricing.models().keys() <= {"a"}


@given(st.binary(max_size=400))
@settings(deadline=None)
def test_a_file_of_anything_is_refused(data: bytes) -> None:
    """Its own bytes, or any in place of the models, but those of no model at all."""
    assume(b"".join(data.split()) != b"{}")
    for text in (data, with_models(data)):
        with pytest.raises(LearnedFileError):
            restore(text, fresh())


NOT_FOUR = {"gram": [[1.0]], "moment": [1.0], "rows": 8.0, "error_square_sum": 0.7, "learnt": 1}
SINGULAR = {**NOT_FOUR, "gram": [[0.0] * 4] * 4, "moment": [1.0] * 4}
HUGE = {**NOT_FOUR, "gram": [[float(i == j) for i in range(4)] for j in range(4)], "moment": [1e300] * 4}


@pytest.mark.parametrize(
    "text",
    [
        altered(output={"reached": [1.0], "ended": [1.0]}),
        altered(output={"reached": [1.0] * 134, "ended": [2.0] * 134}),
        altered(calibration={"reached": [-1.0] * 28, "ended": [-1.0] * 28}),
        altered(tokens_per_event=-1.0),
        altered(tokens_per_event=1e300),
        altered(compared=-1),
        altered(compared="7"),
        altered(prompt=NOT_FOUR),
        altered(prompt=SINGULAR),
        altered(prompt=HUGE),
        altered(prompt={**SINGULAR, "gram": HUGE["gram"], "rows": 1e-9}),
        altered(prompt={**SINGULAR, "gram": HUGE["gram"], "learnt": -5}),
        altered(prompt={**SINGULAR, "gram": HUGE["gram"], "moment": [-1.0] * 4}),
        with_models(b'{"a":{}}'),
        with_models(b"[]"),
        with_models(b"[" * 5000 + b"]" * 5000),
        CONTENT.replace(b'"kvgate_learned":1', b'"kvgate_learned":2'),
        CONTENT.replace(b'"sha256":"', b'"sha256":"0'),
    ],
)
def test_numbers_that_nobody_can_have_learned_are_refused(text: bytes) -> None:
    """Even with a right checksum; and nothing of the file is taken."""
    pricing = fresh()
    with pytest.raises(LearnedFileError):
        restore(text, pricing)
    assert pricing.models() == {}


def test_the_file_is_bounded() -> None:
    """Of more models than are kept, those of which most is known; all together far below what is read."""
    pricing = fresh()
    for number in range(MODELS_MAX + 5):
        pricing.of(f"unknown-{number}")
    for _ in range(30):
        pricing.learn(Answer("known", Shape(400)), Usage(100, 20), End.STOP, events=0)
    kept = remembered(pricing)
    assert len(kept) == MODELS_MAX
    assert "known" in kept
    assert len(encoded(kept)) < FILE_MAX_BYTES


async def test_a_gateway_goes_on_where_the_last_one_ended(tmp_path: Path) -> None:
    """Nothing but the file is left behind, readable to its owner alone."""
    path, pricing = tmp_path / "learned.json", fresh()
    await LearnedFile(path).save(well_taught())
    await LearnedFile(path).save(well_taught(900))
    with capture_logs() as logs:
        await LearnedFile(path).restore(pricing)
    assert [(line["event"], line["models"]) for line in logs] == [("learned_restored", 1)]
    assert pricing.of("a").calibration.samples == 900
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [found.name for found in tmp_path.iterdir()] == ["learned.json"]


async def test_the_first_start_has_no_file(tmp_path: Path) -> None:
    """That is no trouble."""
    with capture_logs() as logs:
        await LearnedFile(tmp_path / "learned.json").restore(fresh())
    assert [(line["event"], line["log_level"]) for line in logs] == [("learned_restored", "info")]


async def test_a_damaged_file_is_said_once_and_put_aside(tmp_path: Path) -> None:
    """The next save takes its place."""
    path, pricing = tmp_path / "learned.json", fresh()
    path.write_bytes(CONTENT[:-100])
    with capture_logs() as logs:
        await LearnedFile(path).restore(pricing)
    assert [(line["event"], line["log_level"]) for line in logs] == [("learned_not_restored", "warning")]
    assert pricing.models() == {}
    assert (tmp_path / "learned.json.bad").read_bytes() == CONTENT[:-100]
    assert not path.exists()


async def test_what_is_too_large_or_no_file_is_not_read(tmp_path: Path) -> None:
    """Nor waited for: a pipe without a writer does not hold up the start."""
    large, folder, pipe = tmp_path / "large", tmp_path / "folder", tmp_path / "pipe"
    large.write_bytes(b" " * (FILE_MAX_BYTES + 1))
    folder.mkdir()
    os.mkfifo(pipe)
    for path, word in ((large, "bytes"), (folder, "directory"), (pipe, "plain")):
        with capture_logs() as logs:
            await LearnedFile(path).restore(fresh())
        assert [line["event"] for line in logs] == ["learned_not_restored"]
        assert word in logs[0]["trouble"]


async def test_a_disk_that_is_full_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old file stays whole, nothing half-written is left, and the end of the trouble is said as well."""
    path = tmp_path / "learned.json"
    file = LearnedFile(path)
    await file.save(well_taught(50))
    whole = path.read_bytes()

    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with capture_logs() as logs:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            await file.save(well_taught(60))
            await file.save(well_taught(60))
        assert path.read_bytes() == whole
        assert [found.name for found in tmp_path.iterdir()] == ["learned.json"]
        await file.save(well_taught(60))
    assert [line["event"] for line in logs] == ["learned_not_saved", "learned_saved_again"]
    assert path.read_bytes() != whole


async def test_a_folder_that_is_missing_is_said_once(tmp_path: Path) -> None:
    """Nothing is made for it."""
    file = LearnedFile(tmp_path / "missing" / "learned.json")
    with capture_logs() as logs:
        await file.restore(fresh())
        await file.save(well_taught(10))
        await file.save(well_taught(10))
    assert [line["event"] for line in logs] == ["learned_restored", "learned_not_saved"]


async def test_a_link_is_followed(tmp_path: Path) -> None:
    """It still points where it did."""
    (tmp_path / "there").mkdir()
    real, link = tmp_path / "there" / "real.json", tmp_path / "link.json"
    link.symlink_to(real)
    await LearnedFile(link).save(well_taught(10))
    assert link.is_symlink()
    assert real.is_file()


async def test_it_is_saved_from_time_to_time_and_at_the_end(tmp_path: Path) -> None:
    """Whoever keeps it is told to stop: the newest is saved then."""
    path, pricing = tmp_path / "learned.json", well_taught(50)
    file = Watched(path)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(file.keep(pricing, 0.001))
        await file.saved.wait()
        pricing.learn(Answer("late", Shape(400)), Usage(100, 20), End.STOP, events=0)
        task.cancel()
    after = fresh()
    assert restore(path.read_bytes(), after) == 2
    assert "late" in after.models()
