"""gRPC stays up between tests: else its last object waits for a thread to end, in whatever test happens to run then."""

import asyncio

import grpc
import pytest


@pytest.fixture(scope="session", autouse=True)
def _grpc_is_up() -> None:
    asyncio.run(_start())


async def _start() -> None:
    grpc.aio.init_grpc_aio()
