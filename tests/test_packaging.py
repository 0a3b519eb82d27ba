"""What users install: one wheel that carries all it needs, and pins that name neither an index nor a host."""

import contextlib
import importlib.metadata
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import gateway

ROOT = Path(__file__).parent.parent
PINS = sorted(ROOT.glob("requirements*.txt"))
PIN = re.compile(r"[a-z0-9._-]+(\[[a-z0-9,_-]+\])?==\S+( ; [^\\]+?)?( --hash=sha256:[0-9a-f]{64})+")


def _pip(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built as an installer would build it, but with the build tools that are pinned here."""
    folder = tmp_path_factory.mktemp("wheel")
    _pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder, ROOT)
    (built,) = folder.iterdir()
    return built


@pytest.mark.timeout(120)
def test_the_wheel_carries_both_packages_and_their_data(wheel: Path) -> None:
    """Every file of both packages is in it (catalogues, pages, type markers), and nothing else of the repository."""
    expected = {
        path.relative_to(ROOT).as_posix()
        for package in ("gateway", "estimator")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed == expected
    assert "gateway/py.typed" in packed
    assert "estimator/py.typed" in packed


@pytest.mark.timeout(120)
def test_the_installed_wheel_runs_without_the_repository(wheel: Path, tmp_path: Path) -> None:
    """`python -m gateway version` works from the wheel alone, in an empty folder, and tells the version."""
    target, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    _pip("install", "--no-deps", "--no-index", "--target", target, wheel)
    # Coverage would count the copy's files beside the repository's.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    environment["PYTHONPATH"] = str(target)
    code = "import gateway, estimator; print(gateway.__file__, estimator.__file__)"
    for arguments, expected in ((["-c", code], str(target)), (["-m", "gateway", "version"], gateway.__version__)):
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout


def test_the_version_stands_in_one_place() -> None:
    """What pip shows is what the package says."""
    assert importlib.metadata.version("kvgate") == gateway.__version__


@pytest.mark.parametrize("path", PINS, ids=lambda path: path.name)
def test_every_pin_has_hashes_and_names_no_host(path: Path) -> None:
    """Each line is a comment or `name==version` with hashes: no index, no host, no option, no path."""
    text = path.read_text("utf-8")
    lines = [re.sub(r"\s+", " ", line).strip() for line in text.replace("\\\n", " ").splitlines()]
    pins = [line for line in lines if line and not line.startswith("#")]
    assert pins
    assert [line for line in pins if not PIN.fullmatch(line)] == []
    assert re.findall(r"https?:|file:|--index|--extra-index|--find-links|/tmp/|/home/", text) == []


def test_the_pin_files_agree() -> None:
    """What the demo and the server run is what was tested."""
    tested = set(_pins("requirements-dev.txt"))
    assert set(_pins("requirements.txt")) <= set(_pins("requirements-demo.txt")) <= tested


def test_no_dependency_of_the_server_runs_code_when_python_starts() -> None:
    """A `.pth` file would: the way in of poisoned packages. Markers leave out what is for other systems."""
    names = re.findall(r"^([a-z0-9._-]+)==", (ROOT / "requirements.txt").read_text("utf-8"), re.MULTILINE)
    found: list[str] = []
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found += [str(file) for file in importlib.metadata.files(name) or () if file.suffix == ".pth"]
    assert len(names) > 10
    assert found == []


def _pins(name: str) -> list[str]:
    return re.findall(r"^[a-z0-9._-]+==[^\s;\\]+", (ROOT / name).read_text("utf-8"), re.MULTILINE)


def test_no_two_packages_bring_the_same_file() -> None:
    """Else what runs depends on which of them was installed last."""
    owners: dict[str, set[str]] = {}
    for package in importlib.metadata.distributions():
        for file in package.files or ():
            if file.suffix == ".py" and file.hash is not None and file.size:
                owners.setdefault(str(file), set()).add(f"{package.name} {file.hash.value}")
    clashes = {file: found for file, found in owners.items() if len({owner.split()[1] for owner in found}) > 1}
    assert clashes == {}
