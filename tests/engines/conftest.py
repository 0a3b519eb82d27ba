"""One vLLM for all tests of this folder, and a gateway in front of it."""

from collections.abc import Iterator

import pytest

from tests.engines import tiny_model
from tests.engines.servers import PATIENT, GatewayUrls, kvgate_server, vllm_server


@pytest.fixture(scope="session")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a vLLM with 1,024 usable tokens of KV cache."""
    folder = tmp_path_factory.mktemp("vllm")
    model = tiny_model.write_huggingface(folder / "model")
    with vllm_server(model, folder / "vllm.log") as url:
        yield url


@pytest.fixture(scope="session")
def gateway(vllm: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayUrls]:
    """A gateway in front of that vLLM whose queue is long enough for any test here."""
    with kvgate_server(vllm, tmp_path_factory.mktemp("kvgate"), PATIENT) as urls:
        yield urls
