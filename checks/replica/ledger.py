"""What clients know of their writes in the order of the changes, to be cut at any."""

import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import aiohttp

from checks.support.undoing_client import UndoingClient
from checks.support.write_log import (
    Answer,
    Audit,
    Entry,
    Json,
    Outcome,
    WriteLog,
    audit,
)

SELECT_CHANGES = "SELECT DISTINCT coalesce(change, id) FROM history"
SELECT_FAULTS = "SELECT * FROM pragma_foreign_key_check"


class Step(NamedTuple):
    """An acknowledged write of a row: what the row became, and by which change."""

    entry: Entry
    wish: str | None
    change: int


class Loss(NamedTuple):
    """The acknowledged writes that a restore did not bring back; monotonic clock."""

    writes: int
    oldest: float | None


@dataclass
class Ledger(WriteLog):
    """A write log that can be cut: changes are numbered in the order of the commits."""

    steps: list[Step] = field(default_factory=list)
    """Those since the last restore."""
    open: list[tuple[Entry, str | None]] = field(default_factory=list)
    """Rows, and what writes of unknown end were to make of them."""
    settled: dict[Entry, str | None] = field(default_factory=dict)
    """What each row was after the last restore."""
    before: set[int] = field(default_factory=set)
    """The changes that the last restored file had."""
    acknowledged: dict[int, float] = field(default_factory=dict)
    """The changes since the last restore, and when each was answered."""
    answered: int | None = None
    """The change whose answer is being noted."""
    unknown: int = 0
    """How many writes since the last restore have an unknown end."""

    def note(self, entry: Entry, wish: str | None, outcome: Outcome) -> None:
        """Record what became of a write of a row, and its change."""
        super().note(entry, wish, outcome)
        if outcome is Outcome.UNKNOWN:
            self.open.append((entry, wish))
        elif outcome is Outcome.ACKNOWLEDGED and self.answered is not None:
            self.steps.append(Step(entry, wish, self.answered))

    def hold(self, database: Path) -> tuple[Loss, Audit]:
        """Hold a restored file against the ledger as of the last change in it.

        What came later is lost, and forgotten; the file must be all that came before.
        """
        found, faults = read_changes(database)
        last = max(found, default=0)
        lost = {one: at for one, at in self.acknowledged.items() if one > last}
        kept = self.before | self.acknowledged.keys() - lost.keys()
        self._cut(last)
        result = audit(self, database)
        result.half += faults
        result.lost += [f"change {one}" for one in kept - found]
        strange = sorted(found - kept)
        if len(strange) > self.unknown:
            result.stray += [f"change {one}" for one in strange]
        self._settle(found)
        return Loss(len(lost), min(lost.values(), default=None)), result

    def _cut(self, last: int) -> None:
        """Let each row be what it was after a change, or what an open write made it."""
        late = {step.entry for step in self.steps if step.change > last}
        touched = {step.entry for step in self.steps} | {one for one, _ in self.open}
        now = {entry: self.settled.get(entry) for entry in touched}
        for step in self.steps:
            if step.change <= last:
                now[step.entry] = step.wish
        for entry, name in now.items():
            entry.may_be = {name}
        for entry, wish in self.open:
            if entry not in late:  # what came after a lost write is lost too
                entry.may_be.add(wish)
        self.together = [
            {entry: wish for entry, wish in wishes.items() if now[entry] != wish}
            for wishes in self.together
        ]

    def _settle(self, found: set[int]) -> None:
        for entry in {*(step.entry for step in self.steps), *dict(self.open)}:
            self.settled[entry] = entry.known()
        self.before = found
        self.steps.clear()
        self.open.clear()
        self.acknowledged.clear()
        self.unknown = 0


class LedgerClient(UndoingClient):
    """A client that writes into a ledger."""

    def __init__(
        self, session: aiohttp.ClientSession, url: str, log: WriteLog, keys: bool
    ) -> None:
        super().__init__(session, url, log, keys)
        assert isinstance(log, Ledger)
        self.ledger = log

    async def send(
        self, method: str, path: str, body: Json, name: str | None, key: str | None
    ) -> Answer | None:
        """Send one write; its change is noted before another client has its turn."""
        answer = await super().send(method, path, body, name, key)
        ledger = self.ledger
        ledger.answered = None if self.change is None else int(self.change)
        if ledger.answered is not None:
            ledger.acknowledged[ledger.answered] = ledger.sent[-1].ended
        ledger.unknown += answer is None
        return answer


def read_changes(database: Path) -> tuple[set[int], list[str]]:
    """Return the numbers of the changes in a file, and rows that refer to none."""
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as file:
        changes = {row[0] for row in file.execute(SELECT_CHANGES)}
        faults = [f"foreign key: {row}" for row in file.execute(SELECT_FAULTS)]
    return changes, faults
