"""The queue that collects units of work and runs them in batches on a connection."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from storage.engine import (
    GUARDED_QUERIES,
    SINGLE_QUERIES,
    TURN_SECONDS,
    KeyLookup,
    RecordedInsert,
    Row,
    Statement,
    T,
    Ts,
    UnavailableError,
    Unit,
    check_wait,
)
from storage.sqlite_connection import BATCH_SECONDS, SqliteConnection, driver

HANG_SECONDS = 1.0
"""How long after BATCH_SECONDS callers wait for a disk that does not answer."""
WATCH_SECONDS = 0.5
"""How often to look after a batch that runs, and the units that wait for its end."""
BATCH_UNITS = 256
"""The most units in one transaction, so that the first is not held up by the last."""
IDLE_TICKS = 2
"""Passes of the event loop without a new unit, after which a batch begins."""
GATHER_SECONDS = 0.008
"""How long a batch is gathered: passes of a loop that has much else to do take long."""


Query = Callable[..., Unit[Any]]
QueuedUnit = tuple[Query, tuple[Any, ...], asyncio.Future[Any], float]
"""A query, its arguments, the future of its result, its deadline by the loop's clock.
"""


class BatchQueue:
    """Units of work that wait for a connection, and run on it in batches.

    `batch_ticks` is how many idle ticks a batch waits for after one of several units.
    With `stoppable`, each unit is a batch, and ends when its caller goes away.
    """

    def __init__(
        self,
        connection: SqliteConnection,
        batch_ticks: int = IDLE_TICKS,
        stoppable: bool = False,
    ) -> None:
        self.connection = connection
        self.batch_ticks = batch_ticks
        self.stoppable = stoppable
        self.alone: set[asyncio.Future[Any]] = set()
        """The futures of units that are not run with others."""
        self.running: asyncio.Future[Any] | None = None
        """The future of the unit that runs, where it is stoppable."""
        self.waiting: deque[QueuedUnit] = deque()
        self.batch_seconds = 0.0
        self.idle_ticks = IDLE_TICKS
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._watcher: asyncio.TimerHandle

    @property
    def is_idle(self) -> bool:
        """Return whether no unit waits and none runs."""
        return self._task is None

    def submit(self, query: Callable[[*Ts], Unit[T]], *args: *Ts) -> asyncio.Future[T]:
        """Put a unit in the queue. OverloadedError if it would wait too long."""
        if self.waiting:
            batches = 1 + len(self.waiting) // BATCH_UNITS
            check_wait(self.batch_seconds * batches)
        future: asyncio.Future[T] = self._loop.create_future()
        deadline = self._loop.time() + TURN_SECONDS
        self.waiting.append((query, args, future, deadline))
        if self._task is None:
            self._task = self._loop.create_task(self._run_batches())
        return future

    def submit_alone(
        self, query: Callable[[*Ts], Unit[T]], *args: *Ts
    ) -> asyncio.Future[T]:
        """Put a unit in the queue that is a batch of its own. OverloadedError."""
        future = self.submit(query, *args)
        self.alone.add(future)
        future.add_done_callback(self.alone.discard)
        return future

    async def _run_batches(self) -> None:
        while self.waiting:
            await self._gather()
            began = self._loop.time()
            batch = self._next_batch(began)
            if not batch:
                continue
            is_alone = batch[0][2] in self.alone
            self.idle_ticks = self.batch_ticks if len(batch) > 1 else IDLE_TICKS
            self._watch_later(batch, began)
            if self.stoppable:
                self.running = batch[0][2]
                self.running.add_done_callback(self._stop)
            try:
                outcomes = await self.connection.call(run_batch, self.connection, batch)
            except Exception as exc:
                outcomes = [exc for _ in batch]
            finally:
                self._watcher.cancel()
                self.running = None
            if not is_alone:  # the next batches take no longer for it
                seconds = self._loop.time() - began
                self.batch_seconds = (self.batch_seconds + seconds) / 2
            for (_, _, future, _), outcome in zip(batch, outcomes, strict=True):
                if future.done():  # its caller went away
                    continue
                if isinstance(outcome, Exception):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome)
        self._task = None

    async def _gather(self) -> None:
        """Let units on their way join the batch: waiting costs less than a commit."""
        # The replies to the last batch bring the next requests some ticks of the loop
        # later; PostgreSQL's commit_delay has the same reason.
        ticks, end = 0, self._loop.time() + GATHER_SECONDS
        while ticks < self.idle_ticks and len(self.waiting) < BATCH_UNITS:
            before = len(self.waiting)
            await asyncio.sleep(0)
            ticks = 0 if len(self.waiting) > before else ticks + 1
            if self._loop.time() > end:
                break

    def _next_batch(self, time: float) -> list[QueuedUnit]:
        self._drop_late(time)
        batch: list[QueuedUnit] = []
        while self.waiting and len(batch) < BATCH_UNITS:
            if batch and (self.stoppable or self.waiting[0][2] in self.alone):
                break
            unit = self.waiting.popleft()
            if not unit[2].done():  # its caller is still there
                batch.append(unit)
            if unit[2] in self.alone:
                break
        return batch

    def _stop(self, future: asyncio.Future[Any]) -> None:
        """End the unit that runs, if its caller has gone."""
        if future.cancelled() and future is self.running:
            self.connection.interrupt()

    def _drop_late(self, time: float) -> None:
        while self.waiting and self.waiting[0][3] < time:
            future = self.waiting.popleft()[2]
            if not future.done():
                late = UnavailableError("it waited too long for its turn")
                future.set_exception(late)

    def _watch_later(self, batch: list[QueuedUnit], began: float) -> None:
        self._watcher = self._loop.call_later(WATCH_SECONDS, self._watch, batch, began)

    def _watch(self, batch: list[QueuedUnit], began: float) -> None:
        """Bound the time that the callers of a batch, and of those behind it, wait."""
        time = self._loop.time()
        self._drop_late(time)
        if time - began > BATCH_SECONDS:
            self.connection.interrupt()
        if time - began > BATCH_SECONDS + HANG_SECONDS:  # the interrupt was no use
            for _, _, future, _ in batch:
                if not future.done():
                    hanging = UnavailableError(self.connection.hang_message)
                    future.set_exception(hanging)
        self._watch_later(batch, began)

    async def close(self) -> None:
        """Finish the units that were accepted, then close the connection."""
        if self._task is not None:
            await asyncio.wait([self._task])
        await self.connection.close()


def run_batch(connection: SqliteConnection, batch: list[QueuedUnit]) -> list[Any]:
    """Run units in one transaction; return the result or the exception of each."""
    # Savepoints are costly and failures are rare: where a unit failed that had changed
    # something, all are undone and run again, each in a savepoint.
    try:
        for use_savepoints in (False, True):
            connection.begin()
            outcomes = _run_units(connection, batch, use_savepoints)
            if len(outcomes) == len(batch):
                break
            connection.roll_back()
        connection.commit(sum(not isinstance(one, Exception) for one in outcomes))
    except Exception as exc:
        connection.roll_back()
        return [connection.health.translate(exc) for _ in batch]
    return outcomes


def _run_units(
    connection: SqliteConnection, batch: list[QueuedUnit], use_savepoints: bool
) -> list[Any]:
    """Return the outcomes, up to the first unit that only a savepoint can undo."""
    raw, outcomes = connection.raw, list[Any]()
    inserted = {} if use_savepoints else insert_together(raw, batch)
    if inserted is None:
        return outcomes
    for place, (query, args, _, _) in enumerate(batch):
        if place in inserted:
            outcomes.append(inserted[place])
            continue
        before = raw.total_changes
        try:
            if use_savepoints:
                raw.execute("SAVEPOINT unit")
            outcomes.append(run_unit(raw, query(*args)))
        except Exception as exc:
            if not raw.in_transaction:  # SQLite undid all of it
                raise
            if use_savepoints:
                raw.execute("ROLLBACK TO unit")
            elif raw.total_changes != before:
                break
            outcomes.append(connection.health.translate(exc))
        if use_savepoints:
            raw.execute("RELEASE unit")
    return outcomes


def run_unit(raw: Any, unit: Unit[T]) -> T:
    """Run one unit of work: send it the rows of each statement it yields."""
    try:
        statement, parameters = next(unit)
        while True:
            statement, parameters = unit.send(fetch_rows(raw, statement, parameters))
    except StopIteration as done:
        result: T = done.value
        return result


def fetch_rows(raw: Any, statement: Statement, parameters: Row) -> list[Row]:
    """Run a statement and return its rows, of an INSERT the id of its last row."""
    if not statement.sqlite:
        return []
    if statement.inserts:
        if isinstance(statement, RecordedInsert):
            return insert_rows(raw, statement, [parameters])
        return [(raw.execute(statement.sqlite, parameters).lastrowid,)]
    rows: list[Row] = raw.execute(statement.sqlite, parameters).fetchall()
    return rows


def insert_rows(
    raw: Any, statement: RecordedInsert, parameters: Sequence[Row]
) -> list[Row]:
    """Insert rows of one caller; return their ids and those of their history.

    No ids where what a row refers to is not there: some may be inserted all the same.
    """
    count = len(parameters)
    try:
        if count > 1:
            values = [value for row in parameters for value in row[:-2]]
            last = raw.execute(_values(statement.sqlite, count), values).lastrowid
        else:
            last = raw.execute(statement.sqlite, parameters[0][:-2]).lastrowid
    except driver.IntegrityError as exc:
        if "FOREIGN KEY" not in str(exc):  # pysqlite3 gives no extended code
            raise
        return []
    # sqlite.org/autoinc.html: each row's id is one more than that of the last
    ids = range(last - count + 1, last + 1)
    cursor = raw.execute(statement.record, (*parameters[-1][-2:], ids[0], last))
    if cursor.rowcount < count:
        return []
    first: int = cursor.lastrowid - count + 1
    return [*zip(ids, range(first, first + count), strict=True)]


Started = tuple[int, Unit[Any], Row]
"""A unit by its place in the batch, and the parameters of the statement it yielded."""


def insert_together(raw: Any, batch: list[QueuedUnit]) -> dict[int, Any] | None:
    """Run the units of a batch that consist of the same INSERT as one statement.

    Also those that do so under a key that is not there yet. Return their results by
    their places in the batch, None where one has failed and only undoing all helps.
    """
    results: dict[int, Any] = {}
    keys: dict[Statement, list[Started]] = {}
    for (statement, _), units in _group_inserts(raw, batch).items():
        if len(units) < 2:
            continue
        before = raw.total_changes
        rows = insert_rows(raw, statement, [row for _, _, row in units])
        if not rows and raw.total_changes != before:
            return None
        for (place, unit, _), row in zip(units, rows, strict=False):
            try:
                guard, parameters = unit.send([row])
                keys.setdefault(guard, []).append((place, unit, parameters))
            except StopIteration as done:
                results[place] = done.value
            except Exception:  # it is told when the unit runs alone
                return None
    for guard, units in keys.items():
        raw.executemany(guard.sqlite, [row for _, _, row in units])
        for place, unit, _ in units:
            try:
                unit.send([])
            except StopIteration as done:
                results[place] = done.value
    return results


def _group_inserts(
    raw: Any, batch: list[QueuedUnit]
) -> dict[tuple[RecordedInsert, str], list[Started]]:
    """Start the units that insert a row; return them by statement and caller."""
    groups: dict[tuple[RecordedInsert, str], list[Started]] = {}
    guarded: dict[KeyLookup, dict[Any, tuple[int, Unit[Any]]]] = {}
    for place, (query, args, _, _) in enumerate(batch):
        if query in SINGLE_QUERIES:
            _add_insert(groups, place, query(*args), None)
        elif query in GUARDED_QUERIES:
            unit = query(*args)
            lookup, parameters = next(unit)
            assert isinstance(lookup, KeyLookup)  # noqa: S101 - for mypy
            # One that comes again in the batch finds afterwards what the first stored.
            guarded.setdefault(lookup, {}).setdefault(parameters[0], (place, unit))
    for lookup, units in guarded.items():
        among = f"({', '.join('?' * len(units))})"
        for (key,) in raw.execute(lookup.keys + among, [*units]).fetchall():
            del units[key]
        for place, unit in units.values():
            _add_insert(groups, place, unit, [])
    return groups


def _add_insert(
    groups: dict[tuple[RecordedInsert, str], list[Started]],
    place: int,
    unit: Unit[Any],
    rows: list[Row] | None,
) -> None:
    """Add a unit to its group if it inserts a row after it was sent some."""
    try:
        statement, parameters = next(unit) if rows is None else unit.send(rows)
    except Exception:  # it is told when the unit runs alone
        return
    if isinstance(statement, RecordedInsert):
        group = groups.setdefault((statement, parameters[-1]), [])
        group.append((place, unit, parameters))


@cache
def _values(sql: str, count: int) -> str:
    """Return an INSERT of so many rows."""
    values = sql[sql.rindex("(") :]
    return sql + f", {values}" * (count - 1)
