"""One llama.cpp server with a unified KV cache for all tests of this folder, and a gateway in front of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines import gguf_model
from tests.engines.servers import PATIENT, GatewayUrls, LlamacppOptions, kvgate_server, llamacpp_server


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file."""
    return gguf_model.write_gguf(tmp_path_factory.mktemp("model") / "model.gguf")


@pytest.fixture(scope="session")
def llamacpp(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a llama.cpp server whose 8 slots share 1,024 tokens."""
    with llamacpp_server(model, tmp_path_factory.mktemp("llamacpp") / "llamacpp.log") as url:
        yield url


@pytest.fixture(scope="session")
def roomy_gateway(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayUrls]:
    """A gateway in front of a server with room for an image, which is priced at hundreds of tokens or more."""
    folder = tmp_path_factory.mktemp("roomy")
    with (
        llamacpp_server(model, folder / "llamacpp.log", LlamacppOptions(context_tokens=4096, slots=1)) as url,
        kvgate_server(url, folder) as urls,
    ):
        yield urls


@pytest.fixture(scope="session")
def gateway(llamacpp: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayUrls]:
    """A gateway in front of that server whose queue is long enough for any test here."""
    with kvgate_server(llamacpp, tmp_path_factory.mktemp("kvgate"), PATIENT) as urls:
        yield urls
