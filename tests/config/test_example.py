"""The example and the schema say what the code does."""

import re

import yaml

from gateway.config import Config, load_config
from gateway.config.example import example, schema


def test_the_example_says_the_defaults() -> None:
    assert load_config(overrides=yaml.safe_load(example()), environ={}) == Config()


def test_the_example_names_every_key() -> None:
    """A new key is in the file that users copy, without anybody's doing."""
    written = set(re.findall(r"^[# -]*([a-z0-9_]+):", example(), re.MULTILINE))

    def keys(node: object) -> set[str]:
        if not isinstance(node, dict):
            return set()
        inner = [keys(value) for value in node.values()]
        return set(node.get("properties", {})).union(*inner)

    assert keys(schema()) <= written


def test_the_commented_items_are_valid() -> None:
    """What stands in comments parses once the lists are opened."""
    text = re.sub(r"^( *)(backends|slo|tenants): \[\]$", r"\1\2:", example(), flags=re.MULTILINE)
    text = re.sub(r"^( *)# (?=[ -] \S|   )", r"\1", text, flags=re.MULTILINE)
    tree = yaml.safe_load(text)
    tree["tenants"][0]["keys"] = ["env:NOVITA_API_KEY"]
    config = load_config(overrides=tree, environ={"NOVITA_API_KEY": "sk"})
    assert [backend.name for backend in config.backends] == ["local-1", "novita"]
    assert config.backends[1].limits.requests_per_minute == 600
    assert config.tenants[0].kv_share == 0.5


def test_the_schema_is_strict_and_shows_secrets_as_references() -> None:
    found = schema()
    assert found["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert found["additionalProperties"] is False
    assert "^(env:" in str(found)
