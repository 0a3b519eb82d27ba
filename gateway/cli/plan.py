"""`kvgate plan`: what a model takes of its GPUs, how much of it runs, what to change, or which GPUs to take."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from estimator import EstimatorError, load_model
from estimator.planning import Plan, PlanOptions, plan as make_plan
from estimator.training import Training
from gateway.cli.plan_json import plan_json
from gateway.cli.plan_output import print_plan
from gateway.cli.plan_training import print_table, print_training, table_json, training_json, training_plan

_LINE_CHARS_MAX = 65_536
_MODEL = typer.Argument(help="Catalogue name, folder, or path to a config.json.", show_default=False)
_LOG = typer.Option(help="An engine's start-up log: what it states replaces what is predicted.")
_CHECKPOINTING = typer.Option("--checkpointing/--no-checkpointing", help="Training: compute activations anew.")


def plan(
    model: Annotated[str | None, _MODEL] = None,
    *,
    gpu: Annotated[str | None, typer.Option(help="Name of a GPU; without one, all are looked through.")] = None,
    gpus: Annotated[int | None, typer.Option(min=1, help="GPUs in all.")] = None,
    tp: Annotated[int | None, typer.Option("--tp", min=1, help="GPUs that share every layer.")] = None,
    pp: Annotated[int | None, typer.Option("--pp", min=1, help="Stages of layers.")] = None,
    dtype: Annotated[str, typer.Option(help="auto, bfloat16, float16 or float32.")] = "auto",
    quant: Annotated[str, typer.Option(help="auto, none, fp8, awq, gptq, nvfp4, Q4_K_M, ...")] = "auto",
    kv_dtype: Annotated[str, typer.Option(help="auto, or what the engine is told: fp8, ...")] = "auto",
    max_model_len: Annotated[int | None, typer.Option(min=1, help="Longest request; the model's own limit.")] = None,
    max_num_seqs: Annotated[int | None, typer.Option(min=1, help="Sequences that run at once at most.")] = None,
    max_num_batched_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens of one step.")] = None,
    gpu_memory_utilization: Annotated[float | None, typer.Option(help="The engine's share of a GPU.")] = None,
    engine: Annotated[str | None, typer.Option(help="vllm, sglang, llamacpp or trtllm.")] = None,
    engine_version: Annotated[str | None, typer.Option(help="Such as 0.22.1; the newest known.")] = None,
    enforce_eager: Annotated[bool, typer.Option("--enforce-eager", help="No CUDA graphs.")] = False,
    startup_log: Annotated[Path | None, _LOG] = None,
    training: Annotated[str | None, typer.Option(help="full, lora or qlora: memory of training instead.")] = None,
    optimizer: Annotated[str, typer.Option(help="Training: adamw, adamw-8bit, lion, sgd, ...")] = "adamw",
    batch: Annotated[int, typer.Option(min=1, help="Training: sequences per GPU and step.")] = 1,
    sequence_tokens: Annotated[int, typer.Option(min=1, help="Training: tokens of each.")] = 2048,
    zero: Annotated[int, typer.Option(min=0, max=3, help="Training: ZeRO stage; 3 is FSDP.")] = 0,
    lora_rank: Annotated[int, typer.Option(min=1, help="Training: rank of adapters.")] = 16,
    checkpointing: Annotated[bool, _CHECKPOINTING] = True,
    pure_16bit: Annotated[bool, typer.Option("--pure-16bit", help="Training: no 32-bit copies.")] = False,
    training_table: Annotated[bool, typer.Option("--training-table", help="The nine cells people know.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="One JSON object instead of text.")] = False,
) -> None:
    """Print how a model fits on GPUs: memory, concurrency, speed limits, what to change; or which GPUs fit.

    Examples: kvgate plan meta-llama/Llama-3.1-70B; kvgate plan meta-llama/Llama-3.1-70B --gpu H100-80GB --tp 4
    """
    if training_table:
        return _print_json(table_json()) if json_ else print_table()
    if model is None:
        raise typer.BadParameter("give a model, or --training-table.", param_hint="MODEL")
    with _mistakes():
        if training is not None:
            mixed = not pure_16bit
            how = Training(
                training, optimizer, mixed, batch, sequence_tokens, checkpointing, zero, gpus or 1, lora_rank
            )
            trained = training_plan(load_model(model), how, gpu)
            return _print_json(training_json(trained)) if json_ else print_training(trained)
        found = _plan(model, gpu, startup_log, {
            "gpus": gpus, "tp": tp, "pp": pp, "dtype": dtype, "quant": quant, "kv_dtype": kv_dtype,
            "max_model_len": max_model_len, "max_num_seqs": max_num_seqs,
            "max_num_batched_tokens": max_num_batched_tokens, "gpu_memory_utilization": gpu_memory_utilization,
            "engine": engine, "engine_version": engine_version, "enforce_eager": enforce_eager,
        })  # fmt: skip
    return _print_json(plan_json(found)) if json_ else print_plan(found)


@contextmanager
def _mistakes() -> Iterator[None]:
    """One sentence and exit 1 instead of a traceback."""
    try:
        yield
    except EstimatorError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from error


def _plan(model: str, gpu: str | None, startup_log: Path | None, options: PlanOptions) -> Plan:
    found = load_model(model)
    if startup_log is None:
        return make_plan(found, gpu, **options)
    try:
        with startup_log.open(encoding="utf-8", errors="replace") as file:
            options["startup_log"] = iter(lambda: file.readline(_LINE_CHARS_MAX), "")
            return make_plan(found, gpu, **options)
    except OSError as error:
        raise EstimatorError(f"The start-up log {startup_log} cannot be read: {error.strerror}.") from error


def _print_json(content: dict[str, object]) -> None:
    typer.echo(json.dumps(content, indent=2))
