"""`kvgate explain`: what a running gateway would do with a request, or why it did what it did, in words and numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, NoReturn, TypeVar

import msgspec
import typer

from gateway.cli.asking import OK, Address, NoAnswerError, address, ask
from gateway.cli.bearer import AdminToken, bearer
from gateway.cli.explain_words import DecisionEntry, Estimate, decided, estimated
from gateway.cli.output import print_json

ANSWER_MAX_S = 10.0
ANSWER_MAX_BYTES = 2**20
REQUEST_MAX_BYTES = 256 * 2**20
ENDPOINTS = {"messages": "/v1/chat/completions", "prompt": "/v1/completions", "input": "/v1/embeddings"}
"""By the field that only its bodies have."""
T = TypeVar("T")


class ExplainError(Exception):
    """There is nothing to explain; the text says why."""


class _Told(msgspec.Struct):
    """What is read of an error: an OpenAI object, or the admin port's text."""

    error: str | _Message


class _Message(msgspec.Struct):
    message: str


def explain(
    request: Annotated[
        Path | None, typer.Argument(metavar="REQUEST.json", help="File with the body of a request.")
    ] = None,
    *,
    request_id: Annotated[
        str | None, typer.Option("--id", help="Explain the decision on a request that came: its x-request-id.")
    ] = None,
    url: Annotated[str, typer.Option(help="Base URL of the gateway's API.")] = "http://127.0.0.1:8080",
    admin: Annotated[str, typer.Option(help="Base URL of its admin port, for --id.")] = "http://127.0.0.1:8081",
    endpoint: Annotated[
        str | None, typer.Option(help="Path the body is for, such as /v1/completions; default: by its fields.")
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(help="Key to ask with, if the gateway wants one: env:NAME or file:PATH.")
    ] = None,
    token: AdminToken = None,
    as_json: Annotated[bool, typer.Option("--json", help="The gateway's own answer, as JSON.")] = False,
) -> None:
    """What a running gateway would do with a request now, without sending it. Exit 1 if it would be refused.

    Examples: kvgate explain request.json; kvgate explain --id 4f1c0e
    """
    if (request is None) == (request_id is None):
        raise typer.BadParameter("give a file with a request, or --id", param_hint="REQUEST.json")
    try:
        if request is not None:
            _explain_request(request, endpoint, url, api_key, as_json=as_json)
        elif request_id is not None:
            _explain_decision(request_id, admin, token, as_json=as_json)
    except ExplainError as error:
        _fail(str(error), as_json=as_json)


def _explain_request(path: Path, endpoint: str | None, url: str, api_key: str | None, *, as_json: bool) -> None:
    gateway = address(url)
    body = _read(path)
    question = b'{"endpoint":%b,"body":%b}' % (json.dumps(endpoint or _endpoint(body, path)).encode(), body)
    headers = {"content-type": "application/json", **bearer(api_key, "--api-key")}
    answer = _ask(url, gateway, "/v1/estimate", body=question, headers=headers)
    estimate = _decoded(answer, Estimate, url)
    if as_json:
        print_json(json.loads(answer))
    else:
        typer.echo(estimated(estimate))
    raise typer.Exit(0 if estimate.decision in ("admit", "queue") else 1)


def _explain_decision(request_id: str, url: str, token: str | None, *, as_json: bool) -> None:
    gateway = address(url, "--admin")
    if not (request_id.isascii() and request_id.replace("-", "").isalnum()):
        raise typer.BadParameter("a request id has letters, digits and hyphens", param_hint="--id")
    answer = _ask(url, gateway, f"/api/v1/decisions/{request_id}", headers=bearer(token, "--token"))
    entry = _decoded(answer, DecisionEntry, url)
    if as_json:
        print_json(json.loads(answer))
    else:
        typer.echo(decided(entry))


def _read(path: Path) -> bytes:
    """A file that holds a JSON object. Whether it is strict is for the gateway to say."""
    try:
        with path.open("rb") as file:
            body = file.read(REQUEST_MAX_BYTES + 1)
        if len(body) > REQUEST_MAX_BYTES:
            raise ExplainError(f"{path} is larger than {REQUEST_MAX_BYTES:,} bytes")
        if not isinstance(json.loads(body), dict):
            raise ExplainError(f"{path} holds no JSON object")
    except OSError as error:
        raise ExplainError(f"{path} cannot be read: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise ExplainError(f"{path}:{error.lineno}:{error.colno} is not JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise ExplainError(f"{path} is not JSON: {type(error).__name__}") from error
    return body


def _endpoint(body: bytes, path: Path) -> str:
    fields = json.loads(body)
    for field, endpoint in ENDPOINTS.items():
        if field in fields:
            return endpoint
    raise ExplainError(f"{path} has none of the fields {', '.join(ENDPOINTS)}: is it the body of a request?")


def _ask(
    url: str, gateway: Address, path: str, *, body: bytes | None = None, headers: dict[str, str] | None = None
) -> bytes:
    try:
        status, answer = ask(
            gateway, path, timeout_s=ANSWER_MAX_S, body_bytes_max=ANSWER_MAX_BYTES, body=body, headers=headers
        )
    except NoAnswerError as error:
        raise ExplainError(f"{url} {error}") from error
    if status == OK:
        return answer
    try:
        told = msgspec.json.decode(answer, type=_Told).error
        text = told if isinstance(told, str) else told.message
    except (msgspec.MsgspecError, UnicodeDecodeError):
        text = "is it a gateway?"
    raise ExplainError(f"{url} answers with status {status}: {text}")


def _decoded(answer: bytes, shape: type[T], url: str) -> T:
    try:
        return msgspec.json.decode(answer, type=shape)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ExplainError(f"{url} answers with something else than a gateway does: {error}") from error


def _fail(problem: str, *, as_json: bool) -> NoReturn:
    if as_json:
        print_json({"problem": problem})
    else:
        typer.echo(problem, err=True)
    raise typer.Exit(1) from None
