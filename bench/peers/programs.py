"""What can be measured: how each program is installed and started."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

PEERS = Path(__file__).resolve().parent
PROJECT = PEERS.parent.parent
INSTALLED = PROJECT / ".bench"
HERE, HEAD = INSTALLED / "here", INSTALLED / "head"
PACKAGES = ("api", "queries", "storage", "runtime", "console")
"""The folders of the program, beside its modules."""
MODULES = INSTALLED / "fastify" / "node_modules"
GO_PATH = "/usr/share/gocode"
GO_SQLITE = Path(GO_PATH, "src/github.com/mattn/go-sqlite3")


class MissingError(Exception):
    """What a peer needs is not on this machine; the text says what."""


def run(command: Sequence[str], folder: Path) -> None:
    """Run a step before the measuring. SystemExit with its last words on failure."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        words = (done.stdout + done.stderr)[-2000:]
        raise SystemExit(f"bench: {' '.join(command)}: {words}")


def install(name: str, wanted: Path, *commands: Sequence[str]) -> None:
    """Install what a peer needs into its own folder, unless it is there already."""
    folder, state = INSTALLED / name, wanted.read_text() + sys.version
    done = folder / "installed"
    if done.exists() and done.read_text() == state:
        return
    make_empty(folder)
    shutil.copy(wanted, folder)
    for command in commands:
        run(command, folder)
    done.write_text(state)


def install_wrk() -> None:
    """Install the load generator where it is missing. SystemExit without the right."""
    if shutil.which("wrk"):
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise SystemExit("bench: wrk is missing (Debian's package is `wrk`)")
    run(("apt-get", "update"), PROJECT)
    run(("apt-get", "install", "-y", "wrk"), PROJECT)


def install_venv(name: str) -> None:
    """Install a framework of Python and what it goes with into a venv of its own."""
    wanted = PEERS / f"requirements-{name}.txt"
    venv = (sys.executable, "-m", "venv", ".")
    install(
        name, wanted, venv, ("bin/python", "-m", "pip", "install", "-r", wanted.name)
    )


def install_go() -> None:
    """Build the server in Go, with what Debian has. MissingError."""
    if not shutil.which("go") or not GO_SQLITE.is_dir():
        raise MissingError("golang-go, golang-github-mattn-go-sqlite3-dev")
    setting = ("env", "GO111MODULE=off", f"GOPATH={GO_PATH}")
    build = (*setting, "go", "build", "-o", "server", "go_sqlite.go")
    install("go", PEERS / "go_sqlite.go", build)


def install_fastify() -> None:
    """Install Fastify and the Node.js that it runs on. MissingError."""
    if not shutil.which("npm"):
        raise MissingError("npm, which installs Fastify and Node.js")
    npm = ("npm", "install", "--no-audit", "--no-fund")
    install("fastify", PEERS / "package.json", npm)


def make_empty(folder: Path) -> None:
    """Make a folder, or make it anew."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def copy_here() -> None:
    """Copy the server as it is, so that all of a run measures the same."""
    make_empty(HERE)
    for module in PROJECT.glob("*.py"):
        shutil.copy(module, HERE)
    for package in PACKAGES:
        if (PROJECT / package).exists():
            shutil.copytree(PROJECT / package, HERE / package)


def unpack_head() -> None:
    """Unpack the server as it was committed last, or in the commit $BENCH_COMMIT."""
    make_empty(HEAD)
    archive = str(HEAD / "head.tar")
    commit = os.environ.get("BENCH_COMMIT", "HEAD")
    run(("git", "archive", "--output", archive, commit), PROJECT)
    run(("tar", "-xf", archive), HEAD)


@dataclass(frozen=True)
class Program:
    """A server that can be measured."""

    title: str
    command: tuple[str, ...]
    install: Callable[[], None] = lambda: None
    env: Mapping[str, str] = field(default_factory=dict)
    usual: bool = True


GRANIAN = (
    'exec {} --interface asgi --loop uvloop --port "$PORT" blacksheep_aiosqlite:app'
)
OURS = "ours"
SHIPPED = {
    "ACCESS_LOG": "1",
    "DATABASE_URL": "sqlite:///db.sqlite3",
    "LOG_LEVEL": "info",
    "WORKERS": "1",
}
"""The defaults, whatever the environment of the check says."""
PROGRAMS = {
    OURS: Program(
        "this server", (sys.executable, str(HERE / "server.py")), copy_here, SHIPPED
    ),
    "limit": Program("aiohttp's limit", (sys.executable, str(PEERS / "limit.py"))),
    "fastify": Program(
        "Fastify, node:sqlite",
        (str(MODULES / ".bin/node"), str(PEERS / "fastify_sqlite.cjs")),
        install_fastify,
        {"NODE_PATH": str(MODULES), "NODE_NO_WARNINGS": "1"},
    ),
    "fastapi": Program(
        "FastAPI, SQLAlchemy",
        (str(INSTALLED / "fastapi/bin/python"), str(PEERS / "fastapi_sqlalchemy.py")),
        partial(install_venv, "fastapi"),
    ),
    "go": Program(
        "Go: net/http, go-sqlite3", (str(INSTALLED / "go/server"),), install_go
    ),
    "blacksheep": Program(
        "BlackSheep, Granian, aiosqlite",
        ("sh", "-c", GRANIAN.format(INSTALLED / "blacksheep/bin/granian")),
        partial(install_venv, "blacksheep"),
        {"PYTHONPATH": str(PEERS)},
    ),
    "head": Program(
        "this server at HEAD",
        (sys.executable, str(HEAD / "server.py")),
        unpack_head,
        SHIPPED,
        usual=False,
    ),
}
"""Another peer is one more entry."""
