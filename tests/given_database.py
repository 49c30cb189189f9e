"""A PostgreSQL database that the tests were given: its tables stay, its rows go.

So that the tables can be made otherwise first: distributed, or reached by a pooler.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import server
from storage.engine import is_postgres
from storage.postgres_schema import TABLES, transaction

NUMBERED = ("customer", "purchases", "history")
"""The tables that give out ids."""
OTHERS = ("purchase_blocks",)
HAS_ROWS = " OR ".join(f"EXISTS (SELECT 1 FROM {table})" for table in TABLES)
# What refers to a customer goes first. TRUNCATE would take its time on a real disk.
CLEAR = "".join(
    [
        *(f"DELETE FROM {table};" for table in sorted({*TABLES, *OTHERS})[::-1]),
        "UPDATE history_start SET pruned = 0;",
        *(f"SELECT setval('{table}_id_seq', 1, false);" for table in NUMBERED),
    ]
)


class GivenDatabase:
    """The database of an URL, which the tests may empty. ValueError for another."""

    def __init__(self, url: str) -> None:
        if not is_postgres(url):
            raise ValueError("--database-url names a PostgreSQL database")
        self.url = url
        server.try_make_db(url)
        if self._run(f"SELECT {HAS_ROWS}"):
            raise ValueError("the database of --database-url has rows: empty it first")
        self.clear()

    def clear(self) -> None:
        """Remove all rows, and give out ids from 1 on."""
        self._run(CLEAR)

    def _run(self, sql: str) -> object:
        """Run SQL in a transaction; return the first value of one statement."""

        async def run() -> object:
            async with transaction(self.url) as connection:
                if sql.startswith("SELECT"):
                    return await connection.fetchval(sql)
                return await connection.execute(sql)

        with ThreadPoolExecutor(1) as thread:  # the loop of a test may be there
            return thread.submit(asyncio.run, run()).result()
