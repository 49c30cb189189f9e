"""Reads from a replica: as new as the primary's, and of a bounded age while it is away.

Before it reads, a replica must have caught up with a *sample* of the primary that was
taken after the read came: how far its log was written, and up to where ids were
settled. All reads that came before a sample was sent share it, as in etcd's ReadIndex.
While the primary is away, reads go on from a replica that holds all of a late sample
and every change that was acknowledged after it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from storage.engine import (
    READING,
    SLEEP,
    DiskFullError,
    EngineStats,
    HorizonStatement,
    Reading,
    RecentStatement,
    Row,
    Statement,
    T,
    Ts,
    UnavailableError,
    Unit,
    without_password,
)
from storage.postgres_engine import PostgresEngine
from storage.postgres_hosts import ERRORS
from storage.primary_samples import Primary, Sample

LOG = logging.getLogger("server")

STALE_SECONDS = 300.0
"""How long after the primary answered last reads go on. An automatic failover takes a
minute; who has waited for five needs to know, and a person has had time to look."""
LAG_SECONDS, LOOK_SECONDS = 0.1, 0.002
"""How long a read waits for a replica to catch up, and how often it looks."""
REST_SECONDS = 0.25
"""How long reads go to the primary after a replica has failed or was too far behind."""
WATCH_SECONDS = 1.0
"""How long to wait for a replica that nobody reads from."""
SETTLE_SECONDS, SETTLE_LOOK_SECONDS = 1.0, 0.005
"""How long a list waits for writers that are under way, and how often it looks."""
HAS_CAUGHT_UP = Statement(
    postgres="""
SELECT coalesce(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
        ELSE pg_current_wal_insert_lsn() END >= $1::text::pg_lsn, false)
    AND ($2::bigint IS NULL OR EXISTS (SELECT FROM history WHERE id = $2 AND at = $3)),
    NOT EXISTS (
        SELECT FROM unnest($4::bigint[]) AS wanted
        WHERE NOT EXISTS (SELECT FROM history WHERE id = wanted AND change IS NULL)
            AND NOT EXISTS (SELECT FROM history WHERE change = wanted)
            AND wanted > (SELECT pruned FROM history_start)
    )
FROM pg_sleep($5)"""
)


class LaggingError(UnavailableError):
    """A replica has not caught up with a sample in time."""


class UnsettledError(Exception):
    """A unit would wait for writers that are under way."""


TOO_OLD = "the primary is away, and what the replica has is too old"
BEHIND = "the replica lacks what was acknowledged"
REPLICA_ERRORS = (UnavailableError, DiskFullError, *ERRORS)
"""Why a unit may fail on a replica and be right on the primary."""


class Needs(NamedTuple):
    """What a replica must hold before a unit runs on it."""

    sample: Sample
    changes: Sequence[int] = ()
    """Changes that were acknowledged later."""
    in_lists: int = 0
    """The last change that lists must show, though they wait for no writer."""
    in_feed: int = 0
    """The same of the feed."""
    waits: bool = True
    """Whether it is given some time for that."""

    def row(self, statement: HorizonStatement) -> Row:
        """Return how far ids are settled. UnavailableError if that is not enough."""
        row = self.sample.row(statement)
        is_feed = len(statement.tables) == 1
        last = self.in_feed if is_feed else self.in_lists
        if not isinstance(statement, RecentStatement) and row[0] < last:
            raise UnavailableError(BEHIND)
        return row


def _catch_up(needs: Needs) -> Unit[None]:
    """Wait until a replica holds what is needed. LaggingError, UnavailableError."""
    sample, changes = needs.sample, needs.changes
    values = sample.lsn, *sample.tip, [*changes]
    seconds = 0.0
    for _ in range(int(LAG_SECONDS / LOOK_SECONDS) if needs.waits else 1):
        [(has_sample, has_changes)] = yield HAS_CAUGHT_UP, (*values, seconds)
        if has_sample and has_changes:
            return
        seconds = LOOK_SECONDS
    raise UnavailableError(BEHIND) if has_sample else LaggingError(BEHIND)


def _on_replica(needs: Needs, query: Callable[[*Ts], Unit[T]], *args: *Ts) -> Unit[T]:
    """Run a unit on a replica that has caught up. LaggingError, UnsettledError."""
    yield from _catch_up(needs)
    unit = query(*args)
    tables: tuple[str, ...] = ()
    try:
        statement, parameters = next(unit)
        while True:
            if statement is SLEEP:
                raise UnsettledError(tables)
            if isinstance(statement, HorizonStatement):
                rows, tables = [needs.row(statement)], statement.tables
            else:
                rows = yield statement, parameters
            statement, parameters = unit.send(rows)
    except StopIteration as done:
        result: T = done.value
        return result


class ReplicatedEngine:
    """A primary that writes, and a replica that the requests' reads are from."""

    def __init__(
        self,
        primary: PostgresEngine,
        replica: PostgresEngine,
        horizons: Mapping[str, str],
    ) -> None:
        self.primary, self.replica = primary, replica
        self.name = primary.name
        self.state = Primary(primary, horizons)
        self._time = asyncio.get_running_loop().time
        self._replica_due = 0.0
        """From when on the replica is asked again."""
        self._watching = asyncio.create_task(self._watch())

    @classmethod
    async def open(
        cls, url: str, replica_url: str, horizons: Mapping[str, str]
    ) -> "ReplicatedEngine":
        """Open both; each may be away now."""
        replica = PostgresEngine(any_host(replica_url))
        engine = cls(await PostgresEngine.open(url), replica, horizons)
        with suppress(UnavailableError):
            needs = Needs(await engine.state.sample())
            try:
                await replica.read(_catch_up, needs)
            except REPLICA_ERRORS as exc:
                shown = without_password(replica_url)
                text = "READ_DATABASE_URL %s: reads are from the primary, for %s"
                LOG.warning(text, shown, exc)
        return engine

    async def read(self, query: Callable[[*Ts], Unit[T]], *args: *Ts) -> T:
        """Run a query that changes nothing and is soon done."""
        # It costs the primary no more than the sample that a replica would wait for.
        if (reading := READING.get()) is None:
            return await self.primary.read(query, *args)
        return await self._read_primary(reading, "read", query, *args)

    async def scan(self, query: Callable[[*Ts], Unit[T]], *args: *Ts) -> T:
        """Run a query that changes nothing and may take long."""
        if (reading := READING.get()) is None:
            return await self.primary.scan(query, *args)
        return await self._read_replica(reading, "scan", query, *args)

    async def report(self, query: Callable[[*Ts], Unit[T]], *args: *Ts) -> T:
        """Run a query in a snapshot; it ends with its caller."""
        if (reading := READING.get()) is None:
            return await self.primary.report(query, *args)
        return await self._read_replica(reading, "report", query, *args)

    async def write(self, query: Callable[[*Ts], Unit[T]], *args: *Ts) -> T:
        """Run a query on the primary, and have reads show its change from now on."""
        result = await self.primary.write(query, *args)
        change = getattr(result, "change", None)
        if change is not None:
            self.state.acknowledge(change)
        return result

    write_alone = write

    async def _watch(self) -> None:
        """Take samples for ever, also while nobody reads."""
        while True:
            with suppress(UnavailableError):
                await self._try_replica(await self.state.sample())
            await self.state.pause()

    async def _try_replica(self, sample: Sample) -> None:
        """Look whether the replica holds a sample."""
        if self._time() < self._replica_due:
            return
        try:
            async with asyncio.timeout(WATCH_SECONDS):
                await self.replica.read(_catch_up, Needs(sample))
        except (TimeoutError, *REPLICA_ERRORS):
            self._replica_due = self._time() + REST_SECONDS
        else:
            self.state.confirm(sample)

    async def _read_primary(
        self, reading: Reading, kind: str, query: Callable[[*Ts], Unit[T]], *args: *Ts
    ) -> T:
        """Read what the primary holds; while it is away, what is known of that."""
        state = self.state
        if state.gone.done():
            return await self._read_old(reading, kind, query, *args)
        try:
            running = asyncio.ensure_future(_run(self.primary, kind, query, *args))
            try:
                first = asyncio.FIRST_COMPLETED
                await asyncio.wait((running, state.gone), return_when=first)
                if running.done():
                    result = running.result()
                    reading.primary_read = self._time()
                    return result
            finally:
                running.cancel()
        except UnavailableError:
            if not await state.is_gone():
                raise
        return await self._read_old(reading, kind, query, *args)

    async def _read_replica(
        self, reading: Reading, kind: str, query: Callable[[*Ts], Unit[T]], *args: *Ts
    ) -> T:
        """Read what the primary holds from the replica, if that has caught up."""
        if self._time() >= self._replica_due:
            try:
                sample = await self.state.sample_now()
            except UnavailableError:
                return await self._read_old(reading, kind, query, *args)
            try:
                return await self._read_new(sample, kind, query, *args)
            except REPLICA_ERRORS:
                self._replica_due = self._time() + REST_SECONDS
        return await self._read_primary(reading, kind, query, *args)

    async def _read_new(
        self, sample: Sample, kind: str, query: Callable[[*Ts], Unit[T]], *args: *Ts
    ) -> T:
        """Read what the primary held at a sample, or later. REPLICA_ERRORS."""
        try:
            result = await self._run_replica(Needs(sample), kind, query, *args)
            self.state.confirm(sample)
            return result
        except UnsettledError as exc:
            settled = await self._settle(sample, exc.args[0])
        return await self._run_replica(Needs(settled), kind, query, *args)

    async def _settle(self, first: Sample, tables: Sequence[str]) -> Sample:
        """Wait for the writers that were under way at a sample, but not for long.

        Return a later sample, with the ids of the last table settled up to the last one
        that was drawn then, or as far as they are.
        """
        table = tables[-1]
        drawn = first.horizons[table][1]
        end = self._time() + SETTLE_SECONDS
        while True:
            later = await self.state.sample_now()
            ready = later.horizons[table][0]
            if ready >= drawn or self._time() > end:
                break
            await asyncio.sleep(SETTLE_LOOK_SECONDS)
        settled = min(ready, drawn)
        return later._replace(horizons=first.horizons | {table: (settled, settled)})

    async def _read_old(
        self, reading: Reading, kind: str, query: Callable[[*Ts], Unit[T]], *args: *Ts
    ) -> T:
        """Read what is known while the primary is away. UnavailableError."""
        state = self.state
        if state.last is not None and state.last is not state.held is not None:
            needs = self._needs(state.last, reading)._replace(waits=False)
            with suppress(LaggingError):  # some of it may never have been sent
                return await self._run_replica(needs, kind, query, *args)
        needs = self._needs(state.held or state.last, reading)
        return await self._run_replica(needs, kind, query, *args)

    def _needs(self, sample: Sample | None, reading: Reading) -> Needs:
        """Return what a read needs while the primary is away. UnavailableError."""
        if sample is None or reading.primary_read > sample.asked:
            raise UnavailableError(TOO_OLD)
        age = self._time() - sample.asked
        if age > STALE_SECONDS:
            raise UnavailableError(TOO_OLD)
        reading.age = max(reading.age or 0.0, age)  # also where a row is not there
        asked = [] if reading.change is None else [reading.change]
        changes = [*self.state.changes, *asked]
        last = max([self.state.unsettled, *changes]), max(asked, default=0)
        return Needs(sample.settled(), changes, *last)

    async def _run_replica(
        self, needs: Needs, kind: str, query: Callable[[*Ts], Unit[T]], *args: *Ts
    ) -> T:
        """Run a unit on the replica once it holds what is needed. REPLICA_ERRORS."""
        if kind == "report":  # it sees what was there at its first statement
            await self.replica.scan(_catch_up, needs)
        return await _run(self.replica, kind, _on_replica, needs, query, *args)

    def stats(self) -> EngineStats:
        """Return the figures of the primary, with the units that wait for both."""
        stats = self.primary.stats()
        waiting = {
            name: number + self.replica.pools[name].waiting
            for name, number in stats.waiting.items()
        }
        return stats._replace(waiting=waiting)

    async def check(self) -> None:
        """Try the primary. UnavailableError."""
        await self.primary.check()
        self.name = self.primary.name

    async def close(self) -> None:
        """Close both."""
        self._watching.cancel()
        await self.state.close()
        await asyncio.gather(self.primary.close(), self.replica.close())


def _run(
    engine: PostgresEngine, kind: str, query: Callable[[*Ts], Unit[T]], *args: *Ts
) -> Awaitable[T]:
    """Run a query in one of the ways of an engine."""
    run = {"read": engine.read, "scan": engine.scan, "report": engine.report}[kind]
    return run(query, *args)


def any_host(url: str) -> str:
    """Return a URL that any of its hosts may answer, unless it says which."""
    if "target_session_attrs=" in url:
        return url
    return f"{url}{'&' if '?' in url else '?'}target_session_attrs=any"
