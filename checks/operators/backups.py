"""Runs the commands of docs/backups.md: the line for cron, and a restore."""

import os
import re
import sys
import tempfile
import textwrap
import time
from pathlib import Path

from checks.operators.tools import DOCS, BreachError, run
from checks.support.server_process import PROJECT, Server, call, serving

CRON = ("env", "-i", "PATH=/usr/bin:/bin", "SHELL=/bin/sh", "sh", "-ec")
"""What cron leaves of the environment (crontab(5))."""
DAY = 24 * 60 * 60


def commands(start: str, end: str) -> str:
    """Return a part of docs/backups.md. BreachError."""
    found = re.search(f"(?ms){start}(.*?)^ *{end}", (DOCS / "backups.md").read_text())
    if found is None:
        raise BreachError(f"docs/backups.md has no {start}")
    return textwrap.dedent(found[1])


def placed(text: str, places: dict[str, Path]) -> str:
    """Return commands with other folders. BreachError."""
    for old, new in places.items():
        if old not in text:
            raise BreachError(f"no {old} in {text}")
        text = text.replace(old, str(new))
    return text


def run_cron(server: Server, copies: Path) -> Path:
    """Let cron take two copies and delete an old one; return the copy. BreachError."""
    line = commands("^```cron\n", "```").replace(r"\%", "%").split(maxsplit=5)[5]
    places = {
        "/opt/customer-purchase-server": PROJECT,
        "venv/bin/python": Path(sys.executable),
        "/srv/shop": server.folder,
        "/srv/backups": copies,
    }
    old = copies / "2020-01-01.sqlite3"
    old.touch()
    os.utime(old, (time.time() - 40 * DAY,) * 2)
    for _ in range(2):
        run(*CRON, placed(line, places))
    names = sorted(path.name for path in copies.iterdir())
    if old.name in names or not names:
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
            look = commands(r"prints `\('ok',\)`:\n\n *```sh\n", "```")
            run("sh", "-ec", placed(look, {"/srv/backups/2026-11-26.sqlite3": copy}))
            kept = "/var/lib/customer-purchase-server-backups/2026-11-26.sqlite3"
            places = {kept: copy, "/var/lib/customer-purchase-server": data}
            restore = commands("(?=^ *cd /var/lib)", "```")
            run("sh", "-ec", placed(restore, places))
            server.start()
            reply = call(server, "GET", "/api/v1/customers")
    if reply.body.count(b'"name":"a"') != 1 or b'"name":"b"' in reply.body:
        raise BreachError(f"restored: {reply.body!r}")
