"""What `kvgate plan` prints: one screen, from the bar of a GPU to what to change."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable

import typer

from estimator.capacity import Setup
from estimator.decode import decode_ceiling
from estimator.layouts import Layout, Layouts, NoFit
from estimator.overhead import Span
from estimator.placement import Placement
from estimator.planning import Plan
from estimator.rule_of_thumb import RuleOfThumb
from gateway.cli.bars import Segment, bar

_GIB, _GB = 2**30, 10**9
_LAYOUTS_SHOWN, _MISSES_SHOWN, _ADVICE_SHOWN = 14, 5, 8
_MARKS, _PLAIN_MARKS = "█▓▒░", "#=+."
_CLOSE = 0.05
_WIDTH_CHARS, _CHANGE_CHARS = 100, 30
_SHOWN_BYTES = 0.05 * _GIB
_SHORT_TOKENS = 4096
"""Length of the sequence whose speed layouts are compared by."""


def print_plan(found: Plan) -> None:
    """Print it; plain characters where the terminal knows no others."""
    marks = _MARKS if "utf" in (sys.stdout.encoding or "").lower() else _PLAIN_MARKS
    for line in plan_lines(found, marks):
        typer.echo(line)


def plan_lines(found: Plan, marks: str = _MARKS) -> Iterable[str]:
    """All lines."""
    placement = found.placement
    if found.layouts is not None:
        yield from _layout_lines(placement, found.layouts)
        yield "The first with the weights and KV as they come:"
    yield _title(found)
    yield from _wrapped(_verdict(found))
    yield ""
    yield from _memory_lines(placement, marks)
    yield ""
    if found.concurrency:
        yield from _concurrency_lines(found)
        yield ""
    if found.advice:
        yield from _advice_lines(found)
        yield ""
    yield from _wrapped(_rule(placement, found.rule))
    host = found.host
    yield from _wrapped(
        f"Host: {host.disk / _GB:,.0f} GB of disk for a checkpoint of {host.checkpoint / _GB:,.0f} GB; memory at least "
        f"{host.ram_least / _GIB:,.0f} GiB, better {host.ram_good / _GIB:,.0f} GiB to restart from the page cache."
    )
    for each in found.notes:
        yield from _wrapped(f"Note: {each}")


def _wrapped(sentence: str) -> list[str]:
    return textwrap.wrap(sentence, _WIDTH_CHARS, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _title(found: Plan) -> str:
    placement = found.placement
    setup = placement.setup
    gpu = placement.gpu.name if placement.gpu else "GPU of the log"
    cut = [f"tp {setup.tp}"] + ([f"pp {setup.pp}"] if setup.pp > 1 else [])
    copies = f", {found.copies} copies of it" if found.copies > 1 else ""
    cells = "f16" if setup.engine.name == "llama.cpp" else placement.model.kv_format().name
    kv = cells if setup.kv_dtype == "auto" else setup.kv_dtype
    return (
        f"{placement.model.name} on {placement.gpus} x {gpu} ({', '.join(cut)}; {found.found_by}){copies}\n"
        f"{_engine(setup)}, weights {_stored(placement)}, KV {kv}, "
        f"up to {placement.capacity.context_tokens:,} tokens"
    )


def _engine(setup: Setup) -> str:
    of = setup.engine
    return f"vLLM {'.'.join(str(part) for part in of.version[:2])}" if of.name == "vllm" else of.name


def _stored(placement: Placement) -> str:
    own = placement.setup.quantization
    how = placement.model.quantization if own is None else own
    return how.method or "16-bit"


def _verdict(found: Plan) -> str:
    if not found.fits:
        return f"DOES NOT FIT: {found.why_not}"
    pool = found.placement.capacity.kv_pool
    sure = "" if found.placement.keeps_nothing or _low_fits(found) else "; at the low end of the estimate it does not"
    return "FITS" + (" (KV pool as the engine states it)" if pool.measured else sure)


def _low_fits(found: Plan) -> bool:
    placement = found.placement
    return placement.requests(placement.capacity.context_tokens, placement.capacity.kv_pool.low) >= 1


def _memory_lines(placement: Placement, marks: str) -> Iterable[str]:
    terms = {term.name: term for term in placement.terms()}
    weights, pool = terms.pop("weights"), terms.pop("KV pool")
    spans = [term.span for term in terms.values()]
    over = sum(spans, Span.exactly(0))
    used = weights.span.likely + pool.span.likely + over.likely
    total = placement.total_bytes
    sizes = (weights.span.likely, pool.span.likely, over.likely, max(0.0, total - used))
    names = ("weights", "KV pool", "overhead", "left free")
    segments = [Segment(name, size, mark) for name, size, mark in zip(names, sizes, marks, strict=True)]
    share = placement.capacity.budget / total
    parts = ", ".join(f"{name} {_gib(term.span)}{_star(term.measured)}" for name, term in terms.items())
    measured = any(term.measured for term in (weights, pool, *terms.values()))
    yield f"Each GPU: {total / _GIB:.1f} GiB as the driver reports, of which the engine may take {share:.0%}"
    yield f"[{bar(segments, max(total, used))}]"
    beside = (_star(weights.measured, "  measured"), _span(pool.span), f"  {parts}", "")
    if used > total:
        beside = (*beside[:3], f"  {(used - total) / _GIB:.1f} GiB too many")
    for each, text in zip(segments, beside, strict=True):
        yield f" {each.mark} {each.name:<10}{each.size / _GIB:>8.1f} GiB{text}"
    if measured:
        yield "   * measured: stated by the engine's start-up log"


def _gib(span: Span) -> str:
    return f"{span.likely / _GIB:.1f}"


def _star(measured: bool, text: str = "*") -> str:
    return text if measured else ""


def _span(span: Span) -> str:
    return "  measured" if span.measured else f"  predicted: {span.low / _GIB:.1f} to {span.high / _GIB:.1f}"


def _row(name: str, cells: Iterable[str]) -> str:
    return f"{name:<22}" + "".join(f"{cell:>13}" for cell in cells)


def _concurrency_lines(found: Plan) -> Iterable[str]:
    rows = found.concurrency
    yield _row("Tokens per request", (f"{each.tokens:,}" for each in rows))
    yield _row("Requests at once", (f"{each.likely:,}{'!' if each.limited else ''}" for each in rows))
    if any(each.low != each.high for each in rows):
        yield _row("  low to high", (f"{each.low:,}-{each.high:,}" for each in rows))
    ceilings = {each.context_tokens: each for each in found.decode}
    if ceilings:
        at = [ceilings.get(each.tokens) for each in rows]
        yield _row("Tokens/s, one alone", (f"{each.sequence_tokens_per_s:,.0f}" if each else "-" for each in at))
        yield _row("Tokens/s, all of them", (f"{each.batch_tokens_per_s:,.0f}" if each else "-" for each in at))
        first = found.decode[0]
        yield f"  at most, by memory bandwidth: {first.formula}"
        yield f"  ({first.source}); engines reach less, large batches above all"
    if any(each.limited for each in rows):
        yield f"  ! stopped by --max-num-seqs {found.placement.capacity.batch.sequences:,}, not by memory"


def _advice_lines(found: Plan) -> Iterable[str]:
    context = found.placement.capacity.context_tokens
    what = "To gain more" if found.fits else "To make it fit"
    yield f"{what}: requests of {context:,} tokens at once, where no other length is said"
    for each in found.advice[:_ADVICE_SHOWN]:
        freed = f", {each.frees_bytes / _GIB:+.1f} GiB a GPU" if each.frees_bytes >= _SHOWN_BYTES else ""
        gain = f"{each.requests_before:.1f} -> {each.requests_after:.1f}"
        length = f" of {each.context_tokens:,} tokens" if each.context_tokens != context else ""
        note = f"; {each.note}" if each.note else ""
        if len(each.change) > _CHANGE_CHARS:
            yield f"  {each.change}"
            yield f"  {'':<{_CHANGE_CHARS}}  {gain}{length}{freed}{note}"
        else:
            yield f"  {each.change:<{_CHANGE_CHARS}}  {gain}{length}{freed}{note}"


def _rule(placement: Placement, rule: RuleOfThumb) -> str:
    name = placement.gpu.name if placement.gpu else "GPU"
    cards = ""
    if rule.gpus and placement.gpu:
        fewer = rule.gpus - 1
        less = f" ({fewer} of them: {fewer * placement.gpu.nominal_gb} GB)" if fewer else ""
        cards = f", so {rule.gpus} x {name}{less}"
    if abs(rule.error) <= _CLOSE:
        judged = "close here, by luck"
    else:
        judged = f"{abs(rule.error):.0%} too {'little' if rule.error < 0 else 'much'} here"
    return (
        f"Rule of thumb P x 4 B / (32 / Q) x 1.2 with {rule.billions:.1f} billion at {rule.bits} bits: {rule.gb:.0f} GB"
        f"{cards}. It is {judged}: weights {rule.weights_gb:.0f} GB, and {rule.beside_weights_gb:.0f} GB of overhead "
        f"and KV of one request of {placement.capacity.context_tokens:,} tokens, where it allows {rule.extra_gb:.0f}."
    )


def _layout_lines(placement: Placement, found: Layouts) -> Iterable[str]:
    context = placement.capacity.context_tokens
    yield f"{placement.model.name}: least GPU memory that holds one request of {context:,} tokens"
    yield (
        f"{'GPUs':<20}{'memory':>9}  {'tp':>3} {'pp':>3}  {'weights':<13}{'KV':<6}{'requests (low-high)':>21}"
        f"{'tokens/s <=':>13}"
    )
    for each in _shown(found):
        setup, gpus = each.placement.setup, each.placement.gpus
        ceiling = decode_ceiling(each.placement, min(_SHORT_TOKENS, context))
        speed = f"{ceiling.sequence_tokens_per_s:,.0f}" if ceiling else "-"
        stored = f"auto, {_stored(each.placement)}" if each.stored == "auto" else each.stored
        yield (
            f"{f'{gpus} x {each.gpu_name}':<20}{each.memory_gib:>5.0f} GiB  {setup.tp:>3} {setup.pp:>3}  "
            f"{stored:<13}{each.kv_dtype:<6}{_requests(each.placement, context):>21}{speed:>13}"
        )
    if misses := _near_misses(placement, found):
        yield f"Too small, for instance, with weights {misses[0].stored}:"
        yield from (f"  {f'{miss.gpus} x {miss.gpu}:':<18}{miss.reason}" for miss in misses)
    yield ""


def _requests(placement: Placement, tokens: int) -> str:
    pool = placement.capacity.kv_pool
    low, high = (placement.requests(tokens, bound) for bound in (pool.low, pool.high))
    return f"{placement.requests(tokens):.1f} ({low:.1f}-{high:.1f})"


def _shown(found: Layouts) -> list[Layout]:
    """The smallest of each way to keep the weights."""
    ways = dict.fromkeys(each.stored for each in found.fitting)
    shown: list[Layout] = []
    for way in ways:
        shown += [each for each in found.fitting if each.stored == way][: _LAYOUTS_SHOWN // len(ways)]
    return sorted(shown, key=lambda each: each.memory_gib)


def _near_misses(placement: Placement, found: Layouts) -> list[NoFit]:
    """Those with the weights as they come whose memory is nearest to what does fit."""
    fitting = placement.gpus * placement.total_bytes / _GIB
    ways = {each.stored for each in found.too_small}
    own = [each for each in found.too_small if each.stored == "auto" or "auto" not in ways]
    return sorted(own, key=lambda each: abs(each.memory_gib - fitting))[:_MISSES_SHOWN]
