"""The document says of the API what its code does, and is what lies in the repository."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from gateway.api.openapi import CODES, document
from tests.api.served import serving

ROOT = Path(__file__).parents[2]
FILE = ROOT / "deploy" / "openapi.json"
ELSEWHERE = {(404, "unknown_url"), (405, "method_not_allowed")}
"""Errors of what is no operation of the document."""


def test_the_file_in_the_repository_is_made_from_the_code() -> None:
    """If this fails: `python -m gateway.api.openapi > deploy/openapi.json`."""
    command = [sys.executable, "-m", "gateway.api.openapi"]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == FILE.read_text("utf-8")


def _errors() -> Iterator[tuple[int, str]]:
    """Status and code of each error that stands in the code as such."""
    for path in (ROOT / "gateway").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("ApiError", "_busy"):
                values = [argument.value for argument in node.args[:2] if isinstance(argument, ast.Constant)]
                if len(values) == 2:
                    yield cast("tuple[int, str]", tuple(values))


def test_every_error_of_the_code_is_in_the_document() -> None:
    """With its status."""
    known = {(status, code) for status, codes in CODES.items() for code in codes}
    found = set(_errors())
    assert len(found) > 15
    assert found - ELSEWHERE - known == set()


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        value = list(value.values())
    if isinstance(value, list):
        for child in value:
            yield from _references(child)


def test_every_reference_leads_somewhere() -> None:
    """And every part is used."""
    whole = json.loads(json.dumps(document()))
    assert set(_references(whole)) == {f"#/components/schemas/{name}" for name in whole["components"]["schemas"]}


@pytest.mark.parametrize("path", cast("dict[str, dict[str, object]]", document()["paths"]))
async def test_every_path_of_the_document_is_served(path: str) -> None:
    """By the method that it names, and by no other."""
    methods = cast("dict[str, dict[str, object]]", document()["paths"])[path]
    (method,) = methods
    async with serving() as house:
        at = path.replace("{id}", "m")
        assert (await house.ask(f"{method.upper()} {at} HTTP/1.1", body=b"{}" if method == "post" else b"")).status in (
            200,
            400,
        )
        other = "GET" if method == "post" else "POST"
        assert (await house.ask(f"{other} {at} HTTP/1.1", body=b"{}" if other == "POST" else b"")).status == 405
