"""Holds the rows of a PostgreSQL database against the clients' write log."""

import sqlite3
from contextlib import closing
from pathlib import Path

import asyncpg

from checks.support.report import Figures
from checks.support.write_log import Outcome, WriteLog, audit


async def export(url: str, file: Path) -> None:
    """Write what the database holds into a SQLite file, for the write log's audit."""
    connection = await asyncpg.connect(url)
    try:
        customers = await connection.fetch(
            "SELECT id, name, address, deleted FROM customer"
        )
        purchases = await connection.fetch(
            "SELECT id, purchase_name, quantity, customer_id FROM purchases"
        )
        hidden = await connection.fetch("SELECT customer_id, first, last FROM hidden")
    finally:
        await connection.close()
    with closing(sqlite3.connect(file)) as copy, copy:
        copy.execute("CREATE TABLE customer (id, name, address, deleted)")
        copy.execute(
            "CREATE TABLE purchases (id, purchase_name, quantity, customer_id)"
        )
        copy.execute("CREATE TABLE hidden (customer_id, first, last)")
        copy.executemany("INSERT INTO customer VALUES (?, ?, ?, ?)", customers)
        copy.executemany("INSERT INTO hidden VALUES (?, ?, ?)", hidden)
        copy.executemany("INSERT INTO purchases VALUES (?, ?, ?, ?)", purchases)


def judge_rows(log: WriteLog, repeated: int, file: Path, figures: Figures) -> None:
    """Hold the rows against the write log."""
    outcomes = log.outcomes()
    acknowledged = outcomes[Outcome.ACKNOWLEDGED]
    found = audit(log, file)
    figures.judge("writes acknowledged", "> 0", f"{acknowledged:,}", acknowledged > 0)
    figures.judge("additions repeated under their keys", "-", f"{repeated:,}", True)
    unknown = outcomes[Outcome.UNKNOWN]
    figures.judge("rows of updates nobody knew of", "-", found.unknown_there, True)
    figures.judge("writes without an answer", 0, unknown, unknown == 0)
    for what, rows in (
        ("acknowledged, lost", found.lost),
        ("there twice", found.twice),
        ("half or orphaned", found.half),
        ("refused or deleted, there", found.refused),
        ("of nobody", found.stray),
    ):
        figures.judge(what, 0, len(rows), not rows)
    figures.breaches += [*found.breaches(), *log.wrong]
    figures.judge("rows at the end", "-", f"{found.rows:,}", True)
