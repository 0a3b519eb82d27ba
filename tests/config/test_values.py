"""The checks of single values; their messages are tested in `test_faults`."""

import pytest

from gateway.backends.upstream import Upstream
from gateway.config import load_config
from gateway.config.values import backend_name, check_url


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://127.0.0.1:8000", "127-0-0-1-8000"),
        ("https://api.novita.ai/openai", "api-novita-ai"),
        ("http://[::1]:8000", "1-8000"),
        ("http://" + "h" * 80, "h" * 63),
    ],
)
def test_a_backend_without_a_name_is_called_by_its_address(url: str, name: str) -> None:
    assert backend_name(url) == name
    assert load_config(overrides={"backends": [{"url": url}]}, environ={}).backends[0].name == name


@pytest.mark.parametrize("url", ["http://h", "https://h:8/api", "http://[::1]:8000", "http://10.0.0.1:1/v1"])
async def test_a_url_that_is_accepted_can_be_asked(url: str) -> None:
    """The client of engines is strict too: what it would refuse is refused at load."""
    await Upstream(check_url(url)).aclose()


def test_a_slash_at_the_end_is_none() -> None:
    assert check_url("http://h/api//") == "http://h/api"
