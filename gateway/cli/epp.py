"""`kvgate epp`: the same admission as `kvgate serve`, asked by Envoy instead of by clients."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from gateway.cli.serve import Shown, launch, overrides
from gateway.config.source import ConfigSource

SHOWN = Shown("grpc", "gRPC     {}   (for Envoy's ext_proc filter)")


def epp(
    urls: Annotated[list[str] | None, typer.Argument(metavar="[URL]...", help="Base URLs of engines.")] = None,
    *,
    path: Annotated[Path | None, typer.Option("--config", "-c", help="Configuration file.")] = None,
    grpc_host: Annotated[str, typer.Option(help="Address of the gRPC service.")] = "127.0.0.1",
    grpc_port: Annotated[int, typer.Option(help="Port of the gRPC service.", min=0, max=65535)] = 9002,
    admin_host: Annotated[str | None, typer.Option(help="Address of metrics and state.  [default: 127.0.0.1]")] = None,
    admin_port: Annotated[int | None, typer.Option(help="Port of metrics and state.  [default: 8081]")] = None,
    mode: Annotated[Literal["enforce", "observe"] | None, typer.Option(help="observe refuses nothing.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object once it serves.")] = False,
) -> None:
    """Run the gateway as an endpoint picker for Envoy and the Kubernetes Gateway API (beta).

    Envoy carries the requests; for each it asks here over gRPC (ext_proc) and is told which engine has room for it, is
    kept waiting until one has, or is given the answer for the client. Needs the extra: pip install 'kvgate[epp]'.

    Example: kvgate epp http://10.0.0.11:8000 http://10.0.0.12:8000
    """
    try:
        from gateway.epp.front import GrpcAddress, check_config, grpc_front
    except ImportError as error:
        typer.echo(f"The picker needs {error.name}: pip install 'kvgate[epp]'", err=True)
        raise typer.Exit(1) from None
    source = ConfigSource(path, overrides(urls, None, None, admin_host, admin_port, mode), check_config)
    launch(source, as_json=as_json, front=grpc_front(GrpcAddress(grpc_host, grpc_port)), shown=SHOWN)
