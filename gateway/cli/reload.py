"""`kvgate reload`: lets a running gateway read its configuration anew, and shows what came of it."""

from __future__ import annotations

import json
from typing import Annotated, NoReturn

import msgspec
import typer

from gateway.cli.asking import OK, UNAUTHORIZED, NoAnswerError, address, ask
from gateway.cli.bearer import AdminToken, bearer
from gateway.cli.output import fail_bad_config, print_json
from gateway.config.faults import ConfigError, Fault

ANSWER_MAX_S = 30.0
"""Every backend that is new is looked at before it takes requests."""
ANSWER_MAX_BYTES = 2**20
BAD_REQUEST = 400


class Backends(msgspec.Struct, frozen=True):
    """Names."""

    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]


class Reloaded(msgspec.Struct, frozen=True):
    """What a gateway answers when it took up another configuration."""

    changed: tuple[str, ...]
    restart_needed: tuple[str, ...]
    backends: Backends


class Problem(msgspec.Struct, frozen=True):
    """Why it did not."""

    path: str
    message: str


class Rejected(msgspec.Struct, frozen=True):
    """All of them."""

    problems: tuple[Problem, ...]


def reload(
    *,
    url: Annotated[str, typer.Option(help="Base URL of the gateway's admin port.")] = "http://127.0.0.1:8081",
    token: AdminToken = None,
    as_json: Annotated[bool, typer.Option("--json", help="The gateway's own answer, as JSON.")] = False,
) -> None:
    """Let a running gateway read its configuration anew: all of it takes effect, or nothing does.

    Requests that run end as they began; a backend that is configured no more goes when it is empty. Exit 78 if the
    configuration is bad, which changes nothing, 1 if the gateway does not answer.

    Examples: kvgate reload; kvgate reload --url http://127.0.0.1:9081
    """
    to, headers = address(url), bearer(token, "--token")
    try:
        status, body = ask(
            to, "/-/reload", timeout_s=ANSWER_MAX_S, body_bytes_max=ANSWER_MAX_BYTES, body=b"", headers=headers
        )
        if status == BAD_REQUEST:
            told = msgspec.json.decode(body, type=Rejected).problems
            fail_bad_config(ConfigError(*(Fault(each.path, each.message) for each in told)), as_json=as_json)
        if status == UNAUTHORIZED:
            raise NoAnswerError("asks for its token: --token")
        if status != OK:
            raise NoAnswerError(f"answers with status {status}; is it the admin port?")
        done = msgspec.json.decode(body, type=Reloaded)
    except NoAnswerError as error:
        _fail(url, str(error), as_json=as_json)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        _fail(url, "answers with something else than a gateway does", as_json=as_json)
    if as_json:
        print_json(json.loads(body))
    else:
        _print(done)


def _print(done: Reloaded) -> None:
    typer.echo(f"changed: {', '.join(done.changed)}" if done.changed else "nothing has changed")
    for word, names in (("added", done.backends.added), ("leaving once empty", done.backends.removed)):
        if names:
            typer.echo(f"backends {word}: {', '.join(names)}")
    if done.restart_needed:
        typer.echo(f"needs a restart to take effect: {', '.join(done.restart_needed)}")


def _fail(url: str, problem: str, *, as_json: bool) -> NoReturn:
    if as_json:
        print_json({"url": url, "problem": problem})
    else:
        typer.echo(f"{url} {problem}", err=True)
    raise typer.Exit(1) from None
