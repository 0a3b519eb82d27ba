"""gRPC stays up between tests: else its last object waits for a thread to end, in whatever test happens to run then.

And it logs no exceptions, in whose frames its objects would live on until the test's log is taken down.
"""

import asyncio
import logging

import grpc
import pytest


@pytest.fixture(scope="session", autouse=True)
def _grpc_is_up() -> None:
    logging.getLogger("grpc").setLevel(logging.CRITICAL)
    asyncio.run(_start())


async def _start() -> None:
    grpc.aio.init_grpc_aio()
