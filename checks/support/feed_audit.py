"""Readers of the feed that outlive the server, held against the SQLite file."""

import asyncio
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path

from checks.support.feed_model import FeedRow, Json, Replay
from checks.support.feed_reader import FeedReader
from checks.support.write_log import (
    WriteLog,
    address_of,
    new_session,
    quantity_of,
    read_file,
)

SELECT_HISTORY = """
SELECT CAST(id AS TEXT), CAST(coalesce(change, id) AS TEXT), action,
    CAST(customer_id AS TEXT), CAST(purchase_id AS TEXT)
FROM history ORDER BY id"""
SELECT_UNDONE = """
SELECT CAST(coalesce(change, id) AS TEXT), CAST(undoes AS TEXT) FROM history
WHERE undoes IS NOT NULL"""


class FeedAudit:
    """Two readers of one feed, and what is wrong with what they have."""

    def __init__(self, url: str) -> None:
        self.readers = [FeedReader([url], kind) for kind in ("pages", "sse")]
        self.replay = Replay()
        self.faults: list[str] = []
        self.undos = 0

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """Follow the feed for the length of a block, whether it is served or not."""
        stop = asyncio.Event()
        async with new_session() as session:
            runs = [asyncio.create_task(one.run(session, stop)) for one in self.readers]
            try:
                yield
            finally:
                stop.set()
                await asyncio.gather(*runs)

    async def judge(self, log: WriteLog, file: Path) -> None:
        """Read on to the end, and hold all against a file that nobody writes."""
        async with new_session() as session:
            for reader in self.readers:
                await reader.catch_up(session)
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as database:
            history = database.execute(SELECT_HISTORY).fetchall()
            undone = dict(database.execute(SELECT_UNDONE).fetchall())
        for reader in self.readers:
            had = [(*row[:2], row.action, *row[5:7]) for row in reader.rows]
            if had != history:
                self.faults.append(f"feed, {reader.transport}: {compare(had, history)}")
            self.faults += reader.faults
            reader.faults.clear()
        rows: Counter[str] = Counter(row[1] for row in history)
        lost = [change for change in log.changes if change not in rows]
        if lost:
            self.faults.append(f"{len(lost)} acknowledged not in the feed: {lost[:3]}")
        half = [one for one, other in undone.items() if rows[one] != rows[other]]
        if half:
            self.faults.append(f"{len(half)} half undos: {half[:3]}")
        self.undos = len(undone)
        new = self.readers[0].rows[self.replay.rows :]
        self.replay_rows(new, log, undone)
        self.compare_tables(file)

    def replay_rows(
        self, rows: list[FeedRow], log: WriteLog, undone: dict[str, str]
    ) -> None:
        """Take in new rows: each must tell of before what those before it left."""
        for row in rows:
            name = log.changes.get(row.change)
            content: Json | None = None
            if name is not None and row.purchase_id is not None:
                content = {"purchase_name": name, "quantity": quantity_of(name)}
            elif name is not None:
                content = {"name": name, "address": address_of(name)}
            self.replay.apply(row, undone.get(row.change), content)
        self.faults += self.replay.faults
        self.replay.faults.clear()

    def compare_tables(self, file: Path) -> None:
        """Hold the rows of the tables against what those of the feed say."""
        rows, _ = read_file(file)
        found: dict[str, dict[str, Json]] = {"customer": {}, "purchase": {}}
        for name, number, value, customer_id in rows:
            if customer_id is None:
                found["customer"][str(number)] = {"name": name, "address": value}
            else:
                content = {"purchase_name": name, "quantity": value}
                content["customer_id"] = str(customer_id)
                found["purchase"][str(number)] = content
        for kind, things in found.items():
            other = self.replay.differences(kind, things)
            if other:
                self.faults.append(f"{len(other)} rows of tables: {other[:3]}")

    def figures(self) -> list[tuple[str, object]]:
        """Return what was read."""
        counts: Counter[str] = sum((one.counts for one in self.readers), Counter())
        return [
            ("rows of the feed", len(self.readers[0].rows)),
            ("undos among them", self.undos),
            ("readers' connections dropped", counts["dropped"]),
            ("readers' connections lost", counts["lost"]),
            ("faults of the feed", len(self.faults)),
        ]


Row = tuple[object, ...]


def compare(had: Sequence[Row], history: Sequence[Row]) -> str:
    """Return how what a reader had differs from the history of the file."""
    counts = Counter(had)
    missed = [row for row in history if row not in counts]
    twice = [row for row, count in counts.items() if count > 1]
    strange = counts.keys() - {*history}
    return (
        f"{len(missed)} missed {missed[:3]}, {len(twice)} twice {twice[:3]}, "
        f"{len(strange)} that are not there {[*strange][:3]}, else out of order"
    )
