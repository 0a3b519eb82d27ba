"""Makes a vLLM model end its answers where their prompts say so. Runs inside the engine, so nobody else knows.

`--logits-processors benchmarks.ends_as_asked:EndsAsAsked`. A model with made-up weights would end at random or never.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm.v1.sample.logits_processor import AdapterLogitsProcessor  # type: ignore[import-not-found]

from benchmarks.scaled_trace import spelt_output_tokens
from tests.engines.tiny_model import SPECIAL_TOKENS, TURN_END

if TYPE_CHECKING:
    from torch import Tensor  # type: ignore[import-not-found]
    from vllm.sampling_params import SamplingParams  # type: ignore[import-not-found]

END_ID = SPECIAL_TOKENS.index(TURN_END)


class EndsAsAsked(AdapterLogitsProcessor):  # type: ignore[misc]
    """For every request: no end before the last token, and nothing but the end there."""

    def is_argmax_invariant(self) -> bool:
        """It changes which token is the likeliest."""
        return False

    def new_req_logits_processor(self, params: SamplingParams) -> object:  # noqa: ARG002 - the interface has it
        """The same for all."""
        return _steer


def _steer(prompt: list[int], generated: list[int], logits: Tensor) -> Tensor:
    if len(generated) + 1 < spelt_output_tokens(prompt):
        logits[END_ID] = float("-inf")
    else:
        logits[:] = float("-inf")
        logits[END_ID] = 0.0
    return logits
