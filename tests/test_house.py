"""The structure of the program, and the versions that it was written for."""

import ast
from importlib.metadata import version
from pathlib import Path

import pytest

from api import request_loop
from runtime import settings
from storage import sqlite_connection

PROJECT = Path(__file__).resolve().parents[1]
ALLOWED = {
    "server": {"handlers", "api", "runtime", "db", "storage"},
    "handlers": {"api", "db"},
    "api": {"api", "runtime", "db"},
    "runtime": {"runtime", "storage"},
    "db": {"queries", "storage"},
    "queries": {"queries", "storage"},
    "storage": {"storage"},
}
"""The imports that each module or package may have of the others."""


def read_imports(path: Path) -> set[str]:
    """Return the full names of the modules that a module imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return names


def read_house() -> dict[str, set[str]]:
    """Return the modules of the program, each with those of them that it imports."""
    paths = [PROJECT / f"{name}.py" for name in ("server", "handlers", "db")]
    for package in ("api", "runtime", "queries", "storage"):
        paths += (PROJECT / package).glob("*.py")
    modules = {
        ".".join(path.relative_to(PROJECT).with_suffix("").parts): path
        for path in paths
        if path.stem != "__init__"
    }
    return {name: read_imports(path) & modules.keys() for name, path in modules.items()}


def test_imports_point_one_way() -> None:
    for name, imports in read_house().items():
        heads = {other.partition(".")[0] for other in imports}
        assert heads <= ALLOWED[name.partition(".")[0]], name


def test_imports_have_no_circle() -> None:
    house = read_house()
    while house:
        leaves = {name for name, imports in house.items() if not imports}
        assert leaves, f"a circle among {sorted(house)}"
        house = {
            name: imports - leaves
            for name, imports in house.items()
            if name not in leaves
        }


@pytest.mark.parametrize(
    ("library", "module", "written_for"),
    [
        ("aiohttp", "api/request_loop.py", request_loop.AIOHTTP_VERSION),
        (
            "aiosqlite",
            "storage/sqlite_connection.py",
            sqlite_connection.AIOSQLITE_VERSION,
        ),
    ],
)
def test_versions_of_private_names(library: str, module: str, written_for: str) -> None:
    installed = version(library)
    assert installed == written_for, (
        f"{module} uses private names of {library} {written_for}, and {installed} is "
        "installed: compare them in both, then change the version there"
    )


def test_table_of_settings() -> None:
    """The README has the table that the parser is made from."""
    lines = (PROJECT / "README.md").read_text("utf-8").splitlines()
    for name, default, setting in settings.table():
        shown = f"`{default}`" if default else "unset"
        assert f"| `{name}` | {shown} | {setting.meaning} |" in lines
