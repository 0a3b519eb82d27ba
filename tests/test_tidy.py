"""The habits that a reviewer should never have to mention: lengths, opening sentences, twin tests, clean text."""

import ast
import re
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILE_LINES_SOFT, FILE_LINES_HARD = 300, 400
FILES_OVER_SOFT_SHARE = 0.1
FUNCTION_LINES_MAX = 60
FILE_BYTES_MAX = 1_000_000

NO_TWIN = {
    "gateway/__main__.py": "three lines; run by test_packaging",
    "gateway/shared_ledger/claims.py": "values and a protocol; every store keeps to tests/shared_ledger/contract.py",
}
"""Source files whose tests live elsewhere, each with the place."""

# Joined here, so that this file does not hold what it looks for.
BANNED = re.compile(
    "|".join(
        [
            "/" + "work/",
            "/" + r"opt/(wheels|pypi)",
            r"\b" + "far" + r"m\b",
            r"\." + "library",
            "files.python" + "hosted",
            "pypi" + r"\.org/simple",
            "deb" + r"\.debian\.org",
            "registry" + r"\.npmjs",
            "download" + r"\.pytorch\.org",
        ],
    ),
    re.IGNORECASE,
)


def _listed_files() -> list[Path]:
    """Every file that is in the repository or about to be: tracked, or new and not ignored."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\0")
    return [ROOT / name for name in sorted(set(names)) if name and (ROOT / name).is_file()]


FILES = _listed_files()
PYTHON = [path for path in FILES if path.suffix == ".py"]
SOURCES = [path for path in PYTHON if path.relative_to(ROOT).parts[0] in {"gateway", "estimator"}]


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _lines(path: Path) -> int:
    return path.read_text("utf-8").count("\n")


def _functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.parse(path.read_text("utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def _twin(source: Path) -> Path:
    """`gateway/api/parse.py` has `tests/api/test_parse.py`; `estimator/plan.py` has `tests/estimator/test_plan.py`."""
    package, *rooms, file = source.relative_to(ROOT).parts
    if package == "estimator":
        rooms.insert(0, package)
    name = "".join(rooms[-1:]) + ".py" if file == "__init__.py" else file
    folder = rooms[:-1] if file == "__init__.py" else rooms
    return ROOT.joinpath("tests", *folder, f"test_{name}")


def test_files_are_short() -> None:
    """No file is over 400 lines, and at most one in ten over 300."""
    lengths = {_name(path): _lines(path) for path in PYTHON}
    assert {name: lines for name, lines in lengths.items() if lines > FILE_LINES_HARD} == {}
    over = {name: lines for name, lines in lengths.items() if lines > FILE_LINES_SOFT}
    assert len(over) <= FILES_OVER_SOFT_SHARE * len(lengths), over


def test_functions_are_short() -> None:
    """No function is over 60 lines, its decorators and docstring included."""
    lengths = {
        f"{_name(path)}:{function.lineno} {function.name}": (function.end_lineno or 0) - function.lineno + 1
        for path in PYTHON
        for function in _functions(path)
    }
    assert {where: lines for where, lines in lengths.items() if lines > FUNCTION_LINES_MAX} == {}


def test_every_source_file_opens_with_what_lives_there() -> None:
    """A docstring opens each source file, and its first paragraph is a whole sentence."""
    openings = {_name(path): ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "" for path in SOURCES}
    assert [name for name, opening in openings.items() if not opening.partition("\n\n")[0].endswith((".", ":"))] == []


def test_every_source_file_with_functions_has_a_twin_test() -> None:
    """Values need no tests of their own; behaviour does."""
    missing = {
        _name(source): _name(_twin(source))
        for source in SOURCES
        if _functions(source) and not _twin(source).is_file() and _name(source) not in NO_TWIN
    }
    assert missing == {}


def test_exemptions_from_twin_tests_are_needed() -> None:
    """An exemption whose file is gone, or has a twin by now, goes too."""
    assert [name for name in NO_TWIN if _twin(ROOT / name).is_file()] == []


def test_no_file_names_a_machine_or_an_index() -> None:
    """Nothing here depends on where it was made or where packages come from."""
    found = []
    for path in FILES:
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue  # binary
        found += [f"{_name(path)}: {match.group()}" for match in BANNED.finditer(text)]
    assert found == []


@pytest.mark.parametrize("text", ["see /" + "work/x", "a far" + "m of", "https://pypi" + ".org/simple"])
def test_the_look_for_banned_words_finds_them(text: str) -> None:
    """The pattern is joined from parts; this shows that the parts still match."""
    assert BANNED.search(text)


def test_files_are_small() -> None:
    """A clone stays quick: no file is over 1 MB."""
    assert [_name(path) for path in FILES if path.stat().st_size > FILE_BYTES_MAX] == []


def test_changelog_keeps_its_form() -> None:
    """Keep a Changelog: `[Unreleased]` first, dated releases from new to old, entries under the six known headings."""
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert text.startswith("# Changelog\n")
    first, *releases = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert first == "[Unreleased]"
    assert [line for line in releases if not re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", line)] == []
    versions = [tuple(map(int, line[1 : line.index("]")].split("."))) for line in releases]
    assert all(newer > older for newer, older in pairwise(versions))
    headings = set(re.findall(r"^### (.*)$", text, re.MULTILINE))
    assert headings <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
