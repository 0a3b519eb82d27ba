"""How fast and how large simulated engines are: step times and KV pools of a few real machines.

A step that computes `t` tokens while attention reads `k` cached tokens takes

    step_s = overhead_s + max(weights_s, token_s * t) + kv_token_s * k

`weights_s` is the time to read the weights once (the floor of a memory-bound step), `token_s` the compute time of one
token. Both are sums of the operator times that Vidur (github.com/microsoft/vidur, MIT) profiled on an H100 for Llama 2
7B and 70B, scaled to the parameter count of Llama 3, plus the all-reduce where there are several GPUs (estimated:
10 us per token, 3 ms per step). `kv_token_s` is the KV bytes of a token on one GPU over 75 % of its memory bandwidth.
Attention's own compute on long prompts is left out. The numbers are derived, not measured on vLLM: compare policies
with them, do not quote them as an engine's speed.
"""

from __future__ import annotations

from dataclasses import dataclass


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

    def step_s(self, tokens: int, kv_tokens_read: int) -> float:
        """Seconds of a step that computes `tokens` and attends to `kv_tokens_read`."""
        return self.overhead_s + max(self.weights_s, self.token_s * tokens) + self.kv_token_s * kv_tokens_read


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
        Profile("8b-h100", 1.5e-3, 6.3e-3, 21.5e-6, 52e-9, kv_tokens=446_400, sequences_max=1024, step_tokens_max=8192),
        Profile("70b-4xh100", 2e-3, 17.3e-3, 64e-6, 33e-9, kv_tokens=468_800, sequences_max=1024, step_tokens_max=8192),
        Profile("8b-l4", 3e-3, 58e-3, 290e-6, 580e-9, kv_tokens=32_800, sequences_max=256, step_tokens_max=2048),
    )
}
