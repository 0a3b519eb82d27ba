"""How fast and how large simulated engines are: step times and KV pools of a few real machines.

A step that computes `t` tokens while attention reads `k` cached tokens takes

    step_s = overhead_s + max(weights_s, token_s * t) + kv_token_s * k + pair_s * q

`weights_s` is the time to read the weights once (the floor of a memory-bound step), `token_s` the compute time of one
token. Both are sums of the operator times that Vidur (github.com/microsoft/vidur, MIT) profiled on an H100 for Llama 2
7B and 70B, scaled to the parameter count of Llama 3, plus the all-reduce where there are several GPUs (estimated:
10 us per token, 3 ms per step). `kv_token_s` is the KV bytes of a token on one GPU over 75 % of its memory bandwidth.
`q` counts the pairs of a prompt's token and an earlier one that attention compares in the step, and `pair_s` is their
4 * layers * width floating-point operations at half of the machine's dense 16-bit peak: long prompts cost more than
their tokens. Generated tokens have as many pairs each, but wait for memory there, which `kv_token_s` counts. The
numbers are derived, not measured on vLLM: compare policies with them, do not quote them as an engine's speed.

The SLOs of the 8B and of the 70B on four GPUs are those of MLPerf Inference for servers of that size; the small
machines have been given the latter's.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.simulation.slo import Slo

LLAMA_3_CONTEXT_TOKENS = 131_072
SERVER_SLO = Slo(ttft_s=2.0, tpot_s=0.2)


@dataclass(frozen=True, slots=True)
class Profile:
    """One model on one machine, with the limits that vLLM would choose for it."""

    name: str
    overhead_s: float
    weights_s: float
    token_s: float
    kv_token_s: float
    kv_tokens: int
    """Usable KV pool."""
    sequences_max: int
    step_tokens_max: int
    pair_s: float = 0.0
    context_tokens: int = LLAMA_3_CONTEXT_TOKENS
    """Longest prompt plus output of the model itself; a small pool may take less."""
    slo: Slo = SERVER_SLO
    """What users of such a machine may expect."""

    def step_s(self, tokens: int, kv_tokens_read: int, pairs: float = 0.0) -> float:
        """Seconds of a step that computes `tokens`, attends to `kv_tokens_read`, and compares `pairs` in prompts."""
        linear_s = max(self.weights_s, self.token_s * tokens)
        return self.overhead_s + linear_s + self.kv_token_s * kv_tokens_read + self.pair_s * pairs


DEMO = Profile(
    name="demo",  # no real machine: slow and small enough that a person sees the pool fill up
    overhead_s=10e-3,
    weights_s=2e-3,
    token_s=20e-6,
    kv_token_s=300e-9,
    kv_tokens=16_384,
    sequences_max=64,
    step_tokens_max=2_048,
)

PROFILES = {
    profile.name: profile
    for profile in (
        DEMO,
        Profile("8b-h100", 1.5e-3, 6.3e-3, 21.5e-6, 52e-9, 446_400, 1024, 8192, pair_s=1.06e-9, slo=Slo(2.0, 0.1)),
        Profile("70b-4xh100", 2e-3, 17.3e-3, 64e-6, 33e-9, 468_800, 1024, 8192, pair_s=1.33e-9),
        Profile("70b-2xh100", 2e-3, 28.5e-3, 117e-6, 65e-9, 48_000, 1024, 8192, pair_s=2.65e-9),
        Profile("8b-l4", 3e-3, 58e-3, 290e-6, 580e-9, 32_800, 256, 2048, pair_s=8.67e-9),
    )
}
