"""`kvgate config schema|example|show`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
import yaml

from gateway.cli.output import fail_bad_config, print_json
from gateway.config import Config, ConfigError, load_config
from gateway.config.example import example as example_text, schema as json_schema

config = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="One JSON object instead of text.")]


@config.callback()
def _config() -> None:
    """Show the schema, a commented example, or the effective configuration.

    Examples: kvgate config example; kvgate config show -c kvgate.yaml
    """


@config.command()
def schema(*, as_json: Json = True) -> None:  # noqa: ARG001  # JSON is what it is, asked for or not
    """The JSON Schema of kvgate.yaml.

    Example: kvgate config schema > kvgate.schema.json
    """
    print_json(json_schema())


@config.command()
def example(*, as_json: Json = False) -> None:
    """A kvgate.yaml with every key, its default and its meaning.

    Example: kvgate config example > kvgate.yaml
    """
    if as_json:
        print_json(Config().shown())
    else:
        typer.echo(example_text(), nl=False)


@config.command()
def show(
    *,
    path: Annotated[Path | None, typer.Option("--config", "-c", help="Configuration file.", show_default=False)] = None,
    as_json: Json = False,
) -> None:
    """The effective configuration: file, environment and defaults together, secrets hidden.

    Example: kvgate config show -c kvgate.yaml
    """
    try:
        shown = load_config(path).shown()
    except ConfigError as error:
        fail_bad_config(error, as_json=as_json)
    if as_json:
        print_json(shown)
    else:
        typer.echo(yaml.safe_dump(shown, sort_keys=False), nl=False)
