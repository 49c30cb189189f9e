"""Samples of a primary: what a replica must hold to be as new as it was then."""

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

from storage.engine import HorizonStatement, Row, Statement, UnavailableError, read_row
from storage.postgres_engine import PostgresEngine
from storage.postgres_hosts import ERRORS
from storage.postgres_pool import ConnectionPool

LOG = logging.getLogger("server")

SAMPLE_SECONDS = 1.0
"""How long a primary may take for a sample; then it is taken to be away."""
WATCH_SECONDS, SOON_SECONDS, AWAY_SECONDS = 1.0, 0.05, 0.25
"""How often a sample is taken though nobody reads, how soon after a write, and how
often while the primary is away."""
MOST_CHANGES = 2000
"""The most changes that are kept for a replica to show."""
AWAY = "the primary is away"

# Of each pair of columns the first is settled, the second drawn. The log is read after
# the horizons, so that it holds every row up to them; the last row of the history is
# there to tell another branch of the log from this one.
SAMPLE = """
WITH {horizons}, tip AS MATERIALIZED (
    SELECT id, at FROM history ORDER BY id DESC LIMIT 1
)
SELECT pg_current_wal_insert_lsn()::text, tip.id, tip.at, {columns}
FROM {names} LEFT JOIN tip ON true"""


class Sample(NamedTuple):
    """What a primary held when it was asked."""

    lsn: str
    """How far its log was written."""
    tip: Row
    """The id and the time of the last row of the history, None without one."""
    horizons: dict[str, tuple[int, int]]
    """By table, up to where ids were settled, and the last one drawn."""
    asked: float
    """When it was asked for, by the loop's clock."""

    def row(self, statement: HorizonStatement) -> Row:
        """Return the row of a statement as of this sample."""
        return sum((self.horizons[table] for table in statement.tables), ())

    def settled(self) -> "Sample":
        """Return it as it looks to who waits for no writer."""
        horizons = {name: (ready, ready) for name, (ready, _) in self.horizons.items()}
        return self._replace(horizons=horizons)


class Primary:
    """Takes samples of the primary, and knows since when it is away."""

    def __init__(self, engine: PostgresEngine, horizons: Mapping[str, str]) -> None:
        self.pool = ConnectionPool(engine.hosts, 1)
        self.pool.siblings = [*engine.pools.values(), self.pool]
        self.pool.returned = engine.writer.returned
        self.tables = (*horizons,)
        parts = [
            f"{_of(name)} AS MATERIALIZED ({sql})" for name, sql in horizons.items()
        ]
        columns = ", ".join(f"{_of(name)}.*" for name in horizons)
        names = " CROSS JOIN ".join(map(_of, horizons))
        sql = SAMPLE.format(horizons=", ".join(parts), columns=columns, names=names)
        self._statement = Statement(postgres=sql)
        self.last: Sample | None = None
        self.held: Sample | None = None
        """The last one that the replica was seen to hold. The last of all may be of
        what a primary that fails has not sent."""
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done while the primary is away."""
        self.changes: dict[int, float] = {}
        """Those that `held` may lack, and when they were acknowledged."""
        self.unsettled = 0
        """The last that it has, where one before that may still come."""
        self._loop = asyncio.get_running_loop()
        self._turn = asyncio.Lock()
        self._next: asyncio.Task[Sample] | None = None
        self._written = asyncio.Event()

    async def sample(self) -> Sample:
        """Return a sample that is taken from now on. UnavailableError."""
        if self._next is None:
            self._next = self._loop.create_task(self._take())
        return await asyncio.shield(self._next)

    async def sample_now(self) -> Sample:
        """Do the same, but not while the primary is known to be away."""
        if self.gone.done():
            raise UnavailableError(AWAY)
        return await self.sample()

    async def is_gone(self) -> bool:
        """Return whether the primary is away, after an error of it."""
        try:
            await self.sample_now()
        except UnavailableError:
            return True
        return False

    async def _take(self) -> Sample:
        async with self._turn:
            self._next = None  # who comes from now on is too late for this one
            asked = self._loop.time()
            try:
                async with asyncio.timeout(SAMPLE_SECONDS):
                    found = await self.pool.submit(read_row, self._statement)
            except (TimeoutError, UnavailableError, *ERRORS) as exc:
                self._tell(is_away=True)
                raise UnavailableError(AWAY) from exc
            self._tell(is_away=False)
        lsn, *tip = found[:3]
        pairs = zip(found[3::2], found[4::2], strict=True)
        horizons = dict(zip(self.tables, pairs, strict=True))
        self.last = Sample(lsn, tuple(tip), horizons, asked)
        return self.last

    def confirm(self, sample: Sample) -> None:
        """Forget the changes that a sample has which the replica holds."""
        if self.held is not None and self.held.asked >= sample.asked:
            return
        self.held = sample
        self._forget(sample)

    def _forget(self, sample: Sample) -> None:
        had = [one for one, since in self.changes.items() if since < sample.asked]
        for change in had:
            del self.changes[change]
        self.unsettled = max([self.unsettled, *had])
        if self.unsettled <= sample.horizons["history"][0]:
            self.unsettled = 0

    def _tell(self, is_away: bool) -> None:
        if is_away and not self.gone.done():
            LOG.warning("the primary is away: reads go on from the replica")
            self.gone.set_result(None)
        elif not is_away and self.gone.done():
            LOG.warning("the primary answers again")
            self.gone = self._loop.create_future()

    def acknowledge(self, change: int) -> None:
        """Keep a change that reads must show from now on."""
        self._tell(is_away=False)
        self.changes[change] = self._loop.time()
        if len(self.changes) > MOST_CHANGES and self.last is not None:
            self.held = None  # the replica is far behind
            self._forget(self.last)
        self._written.set()

    async def pause(self) -> None:
        """Wait until another sample is due."""
        is_away = self.gone.done()
        await asyncio.sleep(AWAY_SECONDS if is_away else SOON_SECONDS)
        if is_away or self.changes or self.unsettled:
            return
        self._written.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(WATCH_SECONDS):
                await self._written.wait()

    async def close(self) -> None:
        """Close the connection."""
        if self._next is not None:
            self._next.cancel()
        await self.pool.close()


def _of(table: str) -> str:
    return f"of_{table}"
