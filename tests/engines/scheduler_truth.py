"""vLLM's own scheduler and KV cache manager without a model: what they do with given requests, step by step.

Runs in the environment of vLLM: `.venv-engines/bin/python -m tests.engines.scheduler_truth` reads a JSON list of
`Workload` and writes one of `Outcome`. The clock counts steps: a request comes before a given step, and an idle engine
skips to the next one that comes. So no step time has to be agreed on, and every number is a whole one.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from tests.engines import tiny_model

if TYPE_CHECKING:  # the environment of the tests has neither
    from vllm.v1.core.sched.scheduler import Scheduler  # type: ignore[import-not-found]
    from vllm.v1.request import Request  # type: ignore[import-not-found]

TOKEN_ID_MAX = 30_000


class Arrival(msgspec.Struct, frozen=True, array_like=True):
    """One request."""

    step: int
    """The first step that it can be in."""
    prompt_tokens: int
    output_tokens: int
    leaves_step: int | None = None
    """Its client is gone before this step."""


class Workload(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Limits of an engine and the requests that it gets, in the order of their arrival."""

    blocks: int
    """Usable ones: vLLM gets one more, its null block."""
    block_tokens: int
    sequences_max: int
    step_tokens_max: int
    sequence_tokens_max: int
    arrivals: list[Arrival]
    prefix_caching: bool = False


class Life(msgspec.Struct, frozen=True, array_like=True):
    """What became of one request."""

    preemptions: int
    first_token_step: int | None
    """None for a request that was left before."""
    last_token_step: int | None


class Step(msgspec.Struct, frozen=True, array_like=True):
    """One step with work: computed tokens and held blocks in it, running and waiting requests after it."""

    number: int
    tokens: int
    used_blocks: int
    running: int
    waiting: int


class Outcome(msgspec.Struct, frozen=True):
    """What a workload led to. The lives are in the order of the arrivals."""

    lives: list[Life]
    steps: list[Step]

    @property
    def preemptions(self) -> int:
        """All of them."""
        return sum(life.preemptions for life in self.lives)

    @property
    def tokens(self) -> int:
        """Computed in all steps, again after a preemption too."""
        return sum(step.tokens for step in self.steps)


def main() -> None:
    """Reads workloads, writes outcomes."""
    os.environ |= {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    workloads = msgspec.json.decode(sys.stdin.buffer.read(), type=list[Workload])
    with tempfile.TemporaryDirectory() as folder:
        model = tiny_model.write_huggingface(Path(folder))
        outcomes = [_play(_scheduler(workload, model), workload) for workload in workloads]
    sys.stdout.buffer.write(msgspec.json.encode(outcomes))


def _scheduler(workload: Workload, model: Path) -> Scheduler:
    """As a server would have it: first come, first served; neither speculation nor asynchronous scheduling."""
    import torch  # type: ignore[import-not-found]
    from vllm.engine.arg_utils import EngineArgs  # type: ignore[import-not-found]
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.kv_cache_interface import (  # type: ignore[import-not-found]
        FullAttentionSpec,
        KVCacheConfig,
        KVCacheGroupSpec,
    )
    from vllm.v1.structured_output import StructuredOutputManager  # type: ignore[import-not-found]

    config = EngineArgs(
        model=str(model),
        skip_tokenizer_init=True,
        load_format="dummy",
        enforce_eager=True,
        block_size=workload.block_tokens,
        max_model_len=workload.sequence_tokens_max,
        max_num_seqs=workload.sequences_max,
        max_num_batched_tokens=workload.step_tokens_max,
        enable_prefix_caching=workload.prefix_caching,
        async_scheduling=False,
        hf_overrides={"max_position_embeddings": workload.sequence_tokens_max},
    ).create_engine_config()
    # One layer of full attention: how many bytes a block has is nothing to the scheduler.
    attention = FullAttentionSpec(workload.block_tokens, num_kv_heads=2, head_size=64, dtype=torch.bfloat16)
    blocks = workload.blocks + 1
    config.cache_config.num_gpu_blocks = blocks
    return Scheduler(
        vllm_config=config,
        kv_cache_config=KVCacheConfig(blocks, [], [KVCacheGroupSpec(["layer"], attention)]),
        block_size=workload.block_tokens,
        hash_block_size=workload.block_tokens,
        structured_output_manager=StructuredOutputManager(config),
        log_stats=True,
    )


def _requests(workload: Workload) -> list[Request]:
    """No two prompts have anything in common: what is cached can only be of use to the request that made it."""
    from vllm.sampling_params import SamplingParams  # type: ignore[import-not-found]
    from vllm.utils.hashing import get_hash_fn_by_name  # type: ignore[import-not-found]
    from vllm.v1.core.kv_cache_utils import (  # type: ignore[import-not-found]
        get_request_block_hasher,
        init_none_hash,
    )
    from vllm.v1.request import Request

    hash_ = get_hash_fn_by_name("sha256")
    init_none_hash(hash_)
    hasher = get_request_block_hasher(workload.block_tokens, hash_) if workload.prefix_caching else None
    source = random.Random(1)
    return [
        Request(
            request_id=str(number),
            prompt_token_ids=source.choices(range(TOKEN_ID_MAX), k=arrival.prompt_tokens),
            sampling_params=SamplingParams(max_tokens=arrival.output_tokens, ignore_eos=True),
            pooling_params=None,
            block_hasher=hasher,
        )
        for number, arrival in enumerate(workload.arrivals)
    ]


def _play(scheduler: Scheduler, workload: Workload) -> Outcome:
    from vllm.v1.request import RequestStatus

    requests = _requests(workload)
    coming = list(zip(workload.arrivals, requests, strict=True))[::-1]
    leaving = leaving_order(workload)
    first_token_step: dict[str, int] = {}
    last_token_step: dict[str, int] = {}
    steps: list[Step] = []
    number = 0
    while coming or scheduler.has_unfinished_requests():
        if not scheduler.has_unfinished_requests():
            number = max(number, coming[-1][0].step)
        while coming and coming[-1][0].step <= number:
            scheduler.add_request(coming.pop()[1])
        while leaving and leaving[-1][0] <= number:
            scheduler.finish_requests(str(leaving.pop()[1]), RequestStatus.FINISHED_ABORTED)
        tokens, used_blocks, sampled = _step(scheduler)
        running, waiting = scheduler.get_request_counts()
        steps.append(Step(number, tokens, used_blocks, running, waiting))
        for id_ in sampled:
            first_token_step.setdefault(id_, number)
            last_token_step[id_] = number
        number += 1
    firsts, lasts = first_token_step.get, last_token_step.get
    return Outcome([Life(r.num_preemptions, firsts(r.request_id), lasts(r.request_id)) for r in requests], steps)


def leaving_order(workload: Workload) -> list[tuple[int, int]]:
    """The step in which a client is gone and the index of its request, the last first."""
    leaves = ((arrival.leaves_step, index) for index, arrival in enumerate(workload.arrivals))
    return sorted(((step, index) for step, index in leaves if step is not None), reverse=True)


def _step(scheduler: Scheduler) -> tuple[int, int, list[str]]:
    """Schedules one step and plays the model: whoever has computed all that it has generates a token.

    Returns:
        Computed tokens, blocks held meanwhile, and the ids of those that generated.
    """
    from vllm.v1.outputs import ModelRunnerOutput  # type: ignore[import-not-found]

    scheduled = scheduler.schedule()
    ids = list(scheduled.num_scheduled_tokens)
    sampled = [id_ for id_ in ids if not scheduler.requests[id_].is_prefill_chunk]
    pool = scheduler.kv_cache_manager.block_pool
    used_blocks = pool.num_gpu_blocks - 1 - pool.get_num_free_blocks()
    output = ModelRunnerOutput(
        req_ids=ids,
        req_id_to_index={id_: index for index, id_ in enumerate(ids)},
        # Which token is nothing to the scheduler; a cached block of a request is found by the same tokens again.
        sampled_token_ids=[[] if scheduler.requests[id_].is_prefill_chunk else [1] for id_ in ids],
    )
    scheduler.update_from_output(scheduled, output)
    return scheduled.total_num_scheduled_tokens, used_blocks, sampled


if __name__ == "__main__":
    main()
