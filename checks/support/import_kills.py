"""Kills a server while it imports a file, and looks for a part of the file."""

import re
import signal
import threading
import time
from collections import Counter
from contextlib import suppress

from checks.support.import_database import (
    CHANCE,
    Engine,
    Seen,
    by_pair,
    imported,
    look,
    read,
    upload,
)
from checks.support.server_process import Reply, Server

PAIRS = 500
"""How many new customers each file brings along."""
LABEL = "undisturbed"
"""What the names of those begin with, for each kill something else."""
BEYOND = 1.1
"""The latest moment of a kill, in times that an import takes undisturbed."""
CHANGE = re.compile(rb'"change":"([0-9]+)"')
"""The change of a row of the feed; the files hold no text that looks like it."""


class KillTrial:
    """Imports into one database, whose server is killed again and again."""

    def __init__(self, engine: Engine, rows: int) -> None:
        self.engine = engine
        self.server = Server(*engine.settings())
        self.rows = rows
        self.pairs = min(PAIRS, rows)
        self.file = by_pair(LABEL, self.pairs, rows)
        self.found: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.seconds = 0.0
        """How long the last import took that nothing disturbed."""

    def run(self, kills: int) -> None:
        """Kill so many times while a file is imported, and twice after the answer."""
        self.server.start(ready_within=30.0)
        try:
            self._send(self.file, LABEL)
            for number in range(kills):
                share = CHANCE.uniform(number, number + 1) / kills
                self.kill(f"kill {number + 1}", share * BEYOND * self.seconds)
            for number in (1, 2):
                self.kill(f"kill {number} after the answer", None)
        finally:
            self.server.stop(signal.SIGKILL)

    def kill(self, label: str, after: float | None) -> None:
        """Kill the server after some seconds of an import, or once it has answered."""
        content = self.file.replace(LABEL.encode(), label.encode())
        before = look(self.server)
        first = self._interrupt(content, label, after)
        self.engine.settle()
        self.server.start(ready_within=30.0)
        there = self._is_there(label, before)
        self.found["whole" if there else "nothing"] += 1
        if first.status:
            self.found["answered"] += 1
            if imported(first) != (self.pairs, self.rows):
                self.wrong.append(f"{label}: {first.status} {first.body[:200]!r}")
            elif not there:
                self.wrong.append(f"{label}: answered 201, and lost")
        again = self._send(content, label)
        replayed = "Idempotency-Replayed" in again.headers
        if imported(again) != (self.pairs, self.rows) or replayed != there:
            shown = f"{again.status} {again.body[:200]!r}, replayed: {replayed}"
            self.wrong.append(f"{label}, sent again: {shown}, there before: {there}")
        if first.status and first.body != again.body:
            self.wrong.append(f"{label}: another answer to the same key")
        if not self._is_there(f"{label}, sent again", before):
            self.wrong.append(f"{label}, sent again: not there")

    def _send(self, content: bytes, key: str) -> Reply:
        """Import a file, and keep how long that took; it grows with the database."""
        began = time.monotonic()
        reply = upload(self.server, content, key=key)
        if "Idempotency-Replayed" not in reply.headers:
            self.seconds = time.monotonic() - began
        return reply

    def _interrupt(self, content: bytes, key: str, after: float | None) -> Reply:
        """Return the reply to an import whose server is killed, 0 for none."""
        replies: list[Reply] = []

        def send() -> None:
            with suppress(OSError):
                replies.append(upload(self.server, content, key=key))

        sender = threading.Thread(target=send)
        sender.start()
        sender.join(after)
        self.server.stop(signal.SIGKILL)
        sender.join()
        return replies[0] if replies else Reply(0)

    def _is_there(self, when: str, before: Seen) -> bool:
        """Return whether a file is there once; a part of it is wrong."""
        after = look(self.server)
        gained = after.customers - before.customers, after.purchases - before.purchases
        feed = read(self.server, f"/api/v1/changes?after={before.cursor}").body
        rows = Counter(CHANGE.findall(feed))
        found = (*gained, sorted(rows.values()))
        if found == (self.pairs, self.rows, [self.pairs + self.rows]):
            return True
        if found != (0, 0, []):
            self.wrong.append(f"{when}: {gained} added, changes of {found[2]} rows")
        return False
