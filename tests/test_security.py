"""What SECURITY.md promises is there: the tests that it names, and the keys that it tells to set."""

from __future__ import annotations

import re
from pathlib import Path

from gateway.config.example import example

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "SECURITY.md").read_text("utf-8")


def test_the_tests_that_it_names_exist() -> None:
    named = set(re.findall(r"`(tests/[\w/]+\.py)`", TEXT))
    assert len(named) > 10
    assert [path for path in sorted(named) if not (ROOT / path).is_file()] == []


def test_the_keys_that_it_names_exist() -> None:
    """Each part of each, as the commented example has them."""
    known = set(re.findall(r"(\w+):", example())) | {"extra_fields", "admin_tls"}
    dotted = set(re.findall(r"`((?:listen|input|ledger)\.\w+)`?", TEXT))
    alone = set(re.findall(r"`(\w+_\w+)`", TEXT)) - {"credentials_file"}
    assert {"listen.admin_token", "input.extra_fields", "requests_max", "kv_share"} <= dotted | alone
    assert [name for name in sorted(dotted | alone) if not set(name.split(".")) <= known] == []
