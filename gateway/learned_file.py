"""What was learned of each model, kept in a file over restarts: a small JSON document with a version and a checksum.

The file is never worth a failure. One that is missing, damaged or of another version means that the gateway starts as
if it had none; one that cannot be written means that it goes on without. Either is said once, in one line of the log.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

import msgspec
import structlog

from estimator.life_table import LifeCounts
from estimator.prompt_length import PromptEvidence, PromptLengths
from gateway.pricing import ModelPricing, Pricing

VERSION = 1
"""Changes with the meaning of anything in the file; the bins of its tables show by their number."""
FILE_MAX_BYTES = 8 << 20
MODELS_MAX = 500
"""Models that are kept, those of which most is known; each takes about 5 kB."""
TOKENS_PER_EVENT_MAX = 1e6

log = structlog.get_logger()


class LearnedFileError(Exception):
    """A file that is no use."""


class Remembered(msgspec.Struct):
    """What the file has of one model."""

    output: LifeCounts
    prompt: PromptEvidence
    tokens_per_event: float
    calibration: LifeCounts
    compared: int


class _File(msgspec.Struct):
    kvgate_learned: int
    """The version."""
    sha256: str
    """Of the text of `models`."""
    models: msgspec.Raw


class LearnedFile:
    """One gateway's file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._trouble = ""

    async def restore(self, pricing: Pricing) -> None:
        """Give a fresh gateway what was saved, if there is anything."""
        try:
            content = await asyncio.to_thread(_read, self._path)
            models = 0 if content is None else restore(content, pricing)
        except OSError as error:
            log.warning("learned_not_restored", path=str(self._path), trouble=str(error))
        except LearnedFileError as error:
            log.warning("learned_not_restored", path=str(self._path), trouble=str(error))
            with suppress(OSError):  # Kept for whoever wants to know; the next save takes its place.
                await asyncio.to_thread(self._path.replace, f"{self._path}.bad")
        else:
            log.info("learned_restored", path=str(self._path), models=models)

    async def save(self, pricing: Pricing) -> None:
        """Write what is known now."""
        known = remembered(pricing)
        try:
            await asyncio.to_thread(lambda: _write(self._path, encoded(known)))
        except OSError as error:
            self._tell(error.strerror or str(error))
        else:
            self._tell("")

    async def keep(self, pricing: Pricing, every_s: float) -> None:
        """Save from time to time, and once more when it is cancelled."""
        try:
            while True:
                await asyncio.sleep(every_s)
                await self.save(pricing)
        finally:
            await self.save(pricing)

    def _tell(self, trouble: str) -> None:
        if trouble == self._trouble:
            return
        self._trouble = trouble
        if trouble:
            log.warning("learned_not_saved", path=str(self._path), trouble=trouble)
        else:
            log.info("learned_saved_again", path=str(self._path))


def remembered(pricing: Pricing) -> dict[str, Remembered]:
    """What is to be saved, as it is now."""
    best_known = sorted(pricing.models().items(), key=lambda item: -item[1].demand.output_lengths.learnt)
    return {name: _remembered(model) for name, model in best_known[:MODELS_MAX]}


def encoded(known: dict[str, Remembered]) -> bytes:
    """The file's content. Takes milliseconds where there are many models."""
    for model in known.values():
        model.output, model.calibration = _rounded(model.output), _rounded(model.calibration)
    models = msgspec.json.encode(known)
    return msgspec.json.encode(_File(VERSION, hashlib.sha256(models).hexdigest(), msgspec.Raw(models))) + b"\n"


def restore(content: bytes, pricing: Pricing) -> int:
    """Put a file's content into a pricing that has learned nothing; the number of models.

    Raises:
        LearnedFileError: the content is damaged or of another version; the pricing is as it was.
    """
    try:
        file = msgspec.json.decode(content, type=_File)
        if file.kvgate_learned != VERSION:
            raise LearnedFileError(f"it has version {file.kvgate_learned}, this build reads {VERSION}")
        if hashlib.sha256(bytes(file.models)).hexdigest() != file.sha256:
            raise LearnedFileError("its checksum does not match")
        models = msgspec.json.decode(file.models, type=dict[str, Remembered])
        restored = {name: _pricing(model) for name, model in models.items()}
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise LearnedFileError(f"it is damaged: {error}") from error
    for name, model in restored.items():
        pricing.restored(name, model)
    return len(restored)


def _remembered(pricing: ModelPricing) -> Remembered:
    return Remembered(
        output=pricing.demand.output_lengths.counts(),
        prompt=pricing.demand.prompt_lengths.evidence(),
        tokens_per_event=pricing.tokens_per_event,
        calibration=pricing.calibration.counts(),
        compared=pricing.calibration.samples,
    )


def _pricing(model: Remembered) -> ModelPricing:
    if not 0 <= model.tokens_per_event <= TOKENS_PER_EVENT_MAX or model.compared < 0:
        raise ValueError("numbers that cannot be")
    pricing = ModelPricing(tokens_per_event=model.tokens_per_event)
    pricing.demand.output_lengths.restore(model.output)
    pricing.demand.prompt_lengths = PromptLengths.restored(model.prompt)
    pricing.calibration.restore(model.calibration, model.compared)
    return pricing


def _rounded(counts: LifeCounts) -> LifeCounts:
    """Six digits: as they round alike, none that was at most another becomes more."""
    reached, ended = (tuple(float(f"{count:.6g}") for count in side) for side in (counts.reached, counts.ended))
    return LifeCounts(reached, ended)


def _read(path: Path) -> bytes | None:
    """A file's content; None if there is no file.

    Raises:
        OSError: it cannot be read.
        LearnedFileError: it is too large, or no plain file.
    """
    try:
        # Not to wait for the other end of a pipe.
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with os.fdopen(file, "rb") as opened:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError("it is no plain file")
        content = opened.read(FILE_MAX_BYTES + 1)
    if len(content) > FILE_MAX_BYTES:
        raise LearnedFileError(f"it has more than {FILE_MAX_BYTES} bytes")
    return content


def _write(path: Path, content: bytes) -> None:
    """Put a file in place as a whole or not at all, readable to its owner alone.

    Raises:
        OSError: it cannot be written; what was there before still is.
    """
    target = Path(os.path.realpath(path))
    number, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(number, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(target)
    except OSError:
        with suppress(OSError):
            Path(name).unlink()
        raise
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
