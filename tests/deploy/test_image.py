"""The Dockerfile through its linters, and the image itself: built, looked at, and run as it will be run."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

import gateway
from tests.deploy.tools import DEPLOY, ROOT, done, said, tool

pytestmark = [pytest.mark.ops, pytest.mark.timeout(600)]

DOCKERFILE = DEPLOY / "docker/Dockerfile"
BASE = "localhost/kvgate-base"
IMAGE = "localhost/kvgate:test"
LENT = ("/etc/pip.conf", "/etc/ssl/certs")
"""Where this machine says how packages are reached; the image gets what they bring, and not them."""
SERVE = """
mount --rbind "$1" "$1" && mount -o remount,bind,ro "$1" && mount -t proc proc "$1/proc"
exec chroot --userspec=65532:65532 "$1" /bin/sh -c '
  PATH=/opt/kvgate/bin:$PATH
  touch /x /tmp/x /opt/kvgate/x /var/lib/kvgate/x 2>/dev/null && exit 3
  kvgate engine --port '$2' & engine=$!
  kvgate serve http://127.0.0.1:'$2' --port '$3' --admin-port '$4' --json & gateway=$!
  for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    kvgate health --url http://127.0.0.1:'$3' 2>/dev/null && break
    sleep 0.5
  done
  kvgate health --url http://127.0.0.1:'$3'; echo healthy $? as $(id -u)
  kill $gateway; wait $gateway; echo ended $?
  kill $engine; wait $engine
'
"""
"""Nothing can be written, not even in /tmp; an engine and a gateway run until the image's own check is content."""


@dataclass(frozen=True, slots=True)
class Buildah:
    """A store of images in a folder of the test."""

    folder: Path

    def __call__(self, *arguments: str | Path) -> str:
        """Run a command of Buildah's that must end well."""
        store = ("--root", self.folder / "store", "--runroot", self.folder / "run")
        return said(tool("buildah"), *store, *arguments).strip()


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buildah]:
    """With the image in it, built on a Debian made here, for no image can be counted on to be had."""
    bootstrap, _ = tool("mmdebstrap"), tool("buildah")
    if os.geteuid() != 0:
        pytest.skip("building without a container engine needs root")
    folder = tmp_path_factory.mktemp("buildah")
    made = Buildah(folder)
    said(bootstrap, "--variant=minbase", "--include=python3,python3-venv,ca-certificates", "bookworm", folder / "b.tar")
    empty = made("from", "scratch")
    made("add", "--quiet", empty, folder / "b.tar", "/")
    made("commit", "--quiet", empty, BASE)
    lent = [part for path in LENT if Path(path).exists() for part in ("--volume", f"{path}:{path}:ro")]
    build = ("bud", "--quiet", "--isolation", "chroot", "--network", "host", "--format", "docker", *lent)
    made(*build, "--build-arg", f"BASE={BASE}", "--file", DOCKERFILE, "--tag", IMAGE, ROOT)
    yield made
    made("rmi", "--all", "--force")
    done("umount", folder / "store/overlay")  # which Buildah leaves behind
    shutil.rmtree(folder)  # gigabytes, which pytest would keep


@pytest.fixture
def container(buildah: Buildah) -> Iterator[str]:
    name = buildah("from", IMAGE)
    yield name
    buildah("rm", name)


def test_hadolint_finds_no_fault() -> None:
    """Nothing that it knows better; a bad habit is found."""
    said(tool("hadolint"), DOCKERFILE)
    assert done(tool("hadolint"), "-", text="FROM debian:latest\nRUN cd /tmp\n").returncode == 1


def test_checkov_finds_no_fault() -> None:
    """CKV_DOCKER_7 takes the argument that names the base for an image without a tag."""
    command = (tool("checkov"), "-f", DOCKERFILE, "--framework", "dockerfile", "--compact", "--quiet")
    assert "FAILED" not in said(*command, "--skip-download", "--skip-check", "CKV_DOCKER_7")


def test_the_image_says_what_it_is(buildah: Buildah) -> None:
    """Who it runs as, what it listens on, how it is asked for its health, and its version."""
    described = json.loads(buildah("inspect", "--type", "image", IMAGE))["Docker"]["config"]
    assert described["User"] == "65532:65532"
    assert sorted(described["ExposedPorts"]) == ["8080/tcp", "8081/tcp"]
    assert described["Entrypoint"] == ["kvgate"]
    assert described["Healthcheck"]["Test"] == ["CMD", "kvgate", "health"]
    assert described["Labels"]["org.opencontainers.image.version"] == gateway.__version__


def test_the_image_holds_the_wheel_and_no_tools(buildah: Buildah, container: str) -> None:
    """What a server needs: no pip, no compiler, none of the sources."""
    root = Path(buildah("mount", container))
    version = said(tool("chroot"), "--userspec=65532:65532", root, "/opt/kvgate/bin/kvgate", "version")
    assert version.strip() == f"kvgate {gateway.__version__}"
    tools = ("opt/kvgate/bin/pip", "src", "tools", "dist")
    assert [name for name in tools if (root / name).exists()] == []
    assert (root / "var/lib/kvgate").stat().st_uid == 65532


def test_the_image_serves_where_nothing_can_be_written(buildah: Buildah, container: str) -> None:
    """As nobody, on a read-only root: an engine and a gateway, healthy by the image's own check, and a clean end."""
    with ExitStack() as stack:
        held = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        ports = [str(each.getsockname()[1]) for each in held]
    root = buildah("mount", container)
    script = SERVE.replace("$2", ports[0]).replace("$3", ports[1]).replace("$4", ports[2])
    heard = said(tool("unshare"), "--mount", "sh", "-c", script, "sh", root)
    assert re.search(r"^healthy 0 as 65532$", heard, re.MULTILINE)
    assert re.search(r"^ended 0$", heard, re.MULTILINE)
