"""`kvgate estimate`: what one request costs in KV cache, the models that are known, the tables that people know."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from estimator import EstimatorError, KvCost, Model, catalog, kv_cost, kv_layout, load_model, seed_tables
from estimator.weights import Weights, weights

_GIB, _GB = 2**30, 10**9
_MODEL_HELP = "A name that --list shows, a folder, a config.json, a safetensors index, or a .gguf file."


def estimate(
    model: Annotated[str | None, typer.Argument(help=_MODEL_HELP, show_default=False)] = None,
    *,
    prompt_tokens: Annotated[int, typer.Option(min=0, help="Tokens of the prompt.")] = 1024,
    max_tokens: Annotated[int, typer.Option(min=0, help="Tokens generated per sequence.")] = 512,
    n: Annotated[int, typer.Option("--n", min=1, help="Sequences generated from the prompt.")] = 1,
    tp: Annotated[int, typer.Option("--tp", min=1, help="GPUs that share the attention heads.")] = 1,
    block_size: Annotated[int, typer.Option(min=1, help="Tokens per KV block, as the engine is set.")] = 16,
    kv_dtype: Annotated[str, typer.Option(help="auto, or what the engine is told: fp8, bfloat16, ...")] = "auto",
    list_: Annotated[bool, typer.Option("--list", help="The models that are known by name.")] = False,
    tables: Annotated[bool, typer.Option("--tables", help="The Llama 3.1 tables and the rule of thumb.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="One JSON object instead of text.")] = False,
) -> None:
    """Print the KV cache of one request: per token, blocks, bytes, per GPU and in all.

    Examples: kvgate estimate --list; kvgate estimate meta-llama/Llama-3.1-8B --prompt-tokens 4000 --max-tokens 500
    """
    if list_:
        _print_json({"models": _known_models()}) if json_ else _print_known_models()
        return
    if tables:
        _print_json(_tables_json()) if json_ else _print_tables()
        return
    if model is None:
        raise typer.BadParameter("give a model, --list or --tables.", param_hint="MODEL")
    try:
        found = load_model(model)
        cost = kv_cost(found, prompt_tokens, max_tokens, tp=tp, block_size=block_size, n=n, kv_dtype=kv_dtype)
    except EstimatorError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from error
    request: dict[str, object] = {"prompt_tokens": prompt_tokens, "max_tokens": max_tokens, "kv_dtype": kv_dtype}
    if json_:
        _print_json(_cost_json(found, cost, request))
    else:
        _print_cost(found, cost, f"{prompt_tokens:,} prompt + up to {max_tokens:,} generated tokens")


def _print_json(content: dict[str, object]) -> None:
    typer.echo(json.dumps(content, indent=2))


def _known_models() -> list[dict[str, object]]:
    """One object per model of the catalogue; null where its description does not say, or engines keep nothing."""
    rows: list[dict[str, object]] = []
    for name in catalog.names():
        model = load_model(name)
        found = _weights(model, 1)
        rows.append(
            {
                "id": name,
                "architecture": model.architecture,
                "parameters": found.params if found else None,
                "quantization": model.quantization.method,
                "context_tokens": model.context_tokens,
                "kv_bytes_per_token": kv_layout(model).bytes_per_token,
                "source": model.source,
            }
        )
    return rows


def _print_known_models() -> None:
    table = Table("model", "architecture", "parameters", "context", "KV B/token", "source", box=None, pad_edge=False)
    for column in table.columns[2:5]:
        column.justify = "right"
    rows = _known_models()
    sources = {source: i + 1 for i, source in enumerate(dict.fromkeys(row["source"] for row in rows))}
    for row in rows:
        params = row["parameters"]
        size = f"{params / 1e9:,.1f} B" if isinstance(params, int) else "-"
        kv, context = row["kv_bytes_per_token"], row["context_tokens"]
        table.add_row(
            str(row["id"]), str(row["architecture"]), size, f"{context:,}", f"{kv:,.0f}", f"[{sources[row['source']]}]"
        )
    Console(highlight=False, markup=False, width=160).print(table)
    typer.echo(f"\n{len(rows)} models; KV at 16 bits on one GPU, without what windows and states keep. Sources:")
    for source, number in sources.items():
        typer.echo(f"[{number}] {source}")


def _weights(model: Model, tp: int) -> Weights | None:
    try:
        return weights(model, tp=tp)
    except EstimatorError:
        return None


def _cost_json(model: Model, cost: KvCost, request: dict[str, object]) -> dict[str, object]:
    found = _weights(model, cost.tp)
    return {
        "model": model.name,
        "architecture": model.architecture,
        "source": model.source,
        "notes": list(model.notes),
        "doubts": list(model.doubts),
        "context_tokens": model.context_tokens,
        **request,
        "n": cost.sequences,
        "tp": cost.tp,
        "groups": [asdict(group) for group in cost.layout.groups],
        "bytes_per_token_per_gpu": cost.layout.bytes_per_token,
        "bytes_per_token": cost.bytes_per_token,
        "tokens_per_sequence": cost.tokens,
        "blocks": cost.blocks,
        "blocks_if_prefix_shared": cost.blocks_if_shared,
        "bytes_per_gpu": cost.bytes_per_gpu,
        "bytes": cost.bytes,
        "gib": cost.bytes / _GIB,
        "gb": cost.bytes / _GB,
        "parameters": found.params if found else None,
        "weights_bytes_per_gpu": found.bytes_per_gpu if found else None,
    }


def _print_cost(model: Model, cost: KvCost, request: str) -> None:
    table = Table("", "per GPU", f"in all ({cost.tp} GPU{'s' if cost.tp > 1 else ''})", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    per_token = cost.layout.bytes_per_token
    table.add_row("KV per further token", f"{per_token:,.0f} B", f"{cost.bytes_per_token:,.0f} B")
    table.add_row("KV blocks", f"{cost.blocks:,}", f"{cost.blocks:,} on each")
    if cost.sequences > 1:
        table.add_row("  with prefix cache", f"{cost.blocks_if_shared:,}", f"{cost.blocks_if_shared:,} on each")
    for unit, size in (("GiB", _GIB), ("GB", _GB)):
        table.add_row(f"KV cache, {unit}", f"{cost.bytes_per_gpu / size:.4f}", f"{cost.bytes / size:.4f}")
    typer.echo(f"{model.name}  {model.architecture}, context {model.context_tokens:,} tokens")
    typer.echo(f"Facts from: {model.source}")
    typer.echo(f"One request: {request}, n={cost.sequences}, tp={cost.tp}\n")
    Console(highlight=False).print(table)
    for group in dict.fromkeys(cost.layout.groups):
        times = cost.layout.groups.count(group)
        window = f", at most {group.blocks_max:,} blocks a sequence" if group.window else ""
        block = f"{group.block_tokens} tokens and {group.bytes_per_block:,} B a block"
        typer.echo(f"{times} {group.kind} group{'s' if times > 1 else ''} of {group.layers} layers: {block}{window}")
    if found := _weights(model, cost.tp):
        stored = f", {model.quantization.method}" if model.quantization.method else ""
        gib = f"{found.gib_per_gpu:,.2f} GiB on each GPU"
        typer.echo(f"Weights: {gib} ({found.params / 1e9:,.2f} billion parameters{stored})")
    for note in model.notes:
        typer.echo(f"Note: {note}")
    for doubt in model.doubts:
        typer.echo(f"Doubt: {doubt}")


def _tables_json() -> dict[str, object]:
    return {
        "kv_gib": [asdict(cell) for cell in seed_tables.kv_table()],
        "weights_gb": [asdict(cell) for cell in seed_tables.weights_table()],
        "rule_of_thumb_gb": {str(bits): seed_tables.rule_of_thumb_gb(70, bits) for bits in (16, 4)},
        "notes": list(seed_tables.NOTES),
    }


def _print_tables() -> None:
    kv = Table("Llama 3.1", "KV heads", *seed_tables.KV_TOKENS, title="KV cache of one sequence, 16 bits, GiB")
    cells = seed_tables.kv_table()
    for model, heads in dict.fromkeys((cell.model, cell.kv_heads) for cell in cells):
        row = [f"{cell.gib:.3f}" for cell in cells if (cell.model, cell.kv_heads) == (model, heads)]
        kv.add_row(model, str(heads), *row)
    weights = Table("Llama 3.1", *seed_tables.WEIGHT_BITS, title="Weights, GB")
    for model in seed_tables.LLAMA_BILLIONS:
        weights.add_row(model, *(f"{cell.gb:g}" for cell in seed_tables.weights_table() if cell.model == model))
    Console(highlight=False).print(kv, weights)
    for bits in (16, 4):
        memory = seed_tables.rule_of_thumb_gb(70, bits)
        typer.echo(f"M = P * 4 B / (32 / Q) * 1.2: 70B at {bits} bits is {memory:g} GB")
    for note in seed_tables.NOTES:
        typer.echo(f"Note: {note}")
