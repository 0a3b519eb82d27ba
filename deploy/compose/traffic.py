"""Made-up requests to an OpenAI-compatible server without end, so that a demo's dashboards have something to show."""

from __future__ import annotations

import argparse
import asyncio
import random
from collections import Counter

import aiohttp

CALM_PER_S, RUSH_PER_S = 1.5, 6.0
"""Two engines of the size that `kvgate engine` has by itself keep up with the one, and not with the other."""
ROUND_S, RUSH_S = 240.0, 60.0
"""Each round ends with a rush."""
IN_FLIGHT_MAX = 256
TIMEOUT_S = 120.0
RETRY_S = 1.0
PROMPT_WORDS = (200, 3000)
OUTPUT_TOKENS = (50, 800)


def pause_s(now: float, dice: random.Random) -> float:
    """Time until the next request: arrivals are independent of each other."""
    in_rush = now % ROUND_S > ROUND_S - RUSH_S
    return dice.expovariate(RUSH_PER_S if in_rush else CALM_PER_S)


def body(model: str, dice: random.Random) -> dict[str, object]:
    """A chat request, longer or shorter, streamed or not."""
    prompt = "word " * dice.randint(*PROMPT_WORDS)
    return {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": dice.randint(*OUTPUT_TOKENS),
        "stream": dice.random() < 0.7,
    }


async def ask(http: aiohttp.ClientSession, request: dict[str, object], seen: Counter[str]) -> None:
    """Send one request and read its answer to the end, whatever it is."""
    try:
        async with http.post("/v1/chat/completions", json=request) as answer:
            await answer.read()
            seen[str(answer.status)] += 1
    except (aiohttp.ClientError, TimeoutError) as error:
        seen[type(error).__name__] += 1


async def first_model(http: aiohttp.ClientSession) -> str:
    """The model to ask for, once there is one."""
    while True:
        try:
            async with http.get("/v1/models", raise_for_status=True) as answer:
                models = (await answer.json())["data"]
        except (aiohttp.ClientError, TimeoutError):
            models = []
        if models:
            return str(models[0]["id"])
        await asyncio.sleep(RETRY_S)


async def run(url: str, requests: int, seed: int) -> Counter[str]:
    """Send so many requests (0: without end); how many had which status."""
    dice = random.Random(seed)
    loop = asyncio.get_running_loop()
    seen: Counter[str] = Counter()
    room = asyncio.Semaphore(IN_FLIGHT_MAX)
    async with aiohttp.ClientSession(url, timeout=aiohttp.ClientTimeout(TIMEOUT_S)) as http:
        model = await first_model(http)
        start, sent = loop.time(), 0
        async with asyncio.TaskGroup() as group:
            while not requests or sent < requests:
                await room.acquire()
                group.create_task(ask(http, body(model, dice), seen)).add_done_callback(lambda _: room.release())
                sent += 1
                await asyncio.sleep(pause_s(loop.time() - start, dice))
    return seen


def main() -> None:
    """Send until stopped, or so many."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("url", help="base URL, such as http://127.0.0.1:8080")
    arguments.add_argument("--requests", type=int, default=0, help="how many; 0: without end")
    arguments.add_argument("--seed", type=int, default=1)
    given = arguments.parse_args()
    print(dict(asyncio.run(run(given.url, given.requests, given.seed))))


if __name__ == "__main__":
    main()
