"""Runs the commands of docs/backups.md: the line for cron, and a restore."""

import re
import sys
import tempfile
import textwrap
from collections.abc import Mapping
from pathlib import Path

from checks.operators.tools import DOCS, BreachError, run
from checks.support.server_process import PROJECT, Server, call, serving

PROGRAM = PROJECT / "server.py"
CRON = ("env", "-i", "PATH=/usr/bin:/bin", "SHELL=/bin/sh", "sh", "-ec")
"""What cron leaves of the environment (crontab(5))."""
MAIL = (
    r"\S+: whole, \d+ kB, 1 customer, .* newest change 1 at .*; 1 older copy removed\n"
)
"""The line that a backup prints."""


def commands(start: str, end: str) -> str:
    """Return a part of docs/backups.md. BreachError."""
    found = re.search(f"(?ms){start}(.*?)^ *{end}", (DOCS / "backups.md").read_text())
    if found is None:
        raise BreachError(f"docs/backups.md has no {start}")
    return textwrap.dedent(found[1])


def placed(text: str, places: Mapping[str, Path | str]) -> str:
    """Return commands with other folders. BreachError."""
    for old, new in places.items():
        if old not in text:
            raise BreachError(f"no {old} in {text}")
        text = text.replace(old, str(new))
    return text


def run_cron(server: Server, copies: Path) -> Path:
    """Let cron take two copies beside 30 old ones; return the last. BreachError."""
    line = commands("^```cron\n", "```").split(maxsplit=5)[5]
    places = {
        "/opt/customer-purchase-server": PROJECT,
        "venv/bin/python": Path(sys.executable),
        "/srv/shop": server.folder,
        "/srv/backups": copies,
    }
    old = [copies / f"db-2020-01-{day:02}T03-15-00Z.sqlite3" for day in range(1, 31)]
    foreign = copies / "2020-01-01.sqlite3"
    for file in (*old, foreign):
        file.touch()
    for _ in range(2):
        told = run(*CRON, placed(line, places))
        if not re.fullmatch(MAIL, told):
            raise BreachError(f"the mail: {told!r}")
    names = sorted(path.name for path in copies.iterdir() if path != foreign)
    kept = [path.name for path in old[2:]]
    if len(names) != 30 or names[:28] != kept or not foreign.exists():
        raise BreachError(f"copies: {names}")
    return copies / names[-1]


def try_backups() -> None:
    """Take a copy of a server that runs, and restore it. BreachError."""
    with tempfile.TemporaryDirectory() as name:
        copies, data = Path(name, "copies"), Path(name, "data")
        copies.mkdir()
        data.mkdir()
        with serving(data) as server:
            call(server, "POST", "/api/v1/customer", {"name": "a", "address": "a"})
            copy = run_cron(server, copies)
            call(server, "POST", "/api/v1/customer", {"name": "b", "address": "b"})
            server.stop()
            kept = "db-2026-11-26T03-15-00Z.sqlite3"
            look = commands(r"^1\. Look at the copy.*?```sh\n", "```")
            python = placed(look, {"python server.py": f"{sys.executable} {PROGRAM}"})
            run("sh", "-ec", placed(python, {f"/srv/backups/{kept}": copy}))
            kept = f"/var/lib/customer-purchase-server-backups/{kept}"
            places = {kept: copy, "/var/lib/customer-purchase-server": data}
            restore = commands("(?=^ *cd /var/lib)", "```")
            run("sh", "-ec", placed(restore, places))
            server.start()
            reply = call(server, "GET", "/api/v1/customers")
    if reply.body.count(b'"name":"a"') != 1 or b'"name":"b"' in reply.body:
        raise BreachError(f"restored: {reply.body!r}")
