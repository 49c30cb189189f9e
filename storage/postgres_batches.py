"""What is added on PostgreSQL while no connection is free: several rows a statement."""

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from math import ceil
from typing import Any, NamedTuple

from storage.engine import (
    SINGLE_QUERIES,
    TURN_SECONDS,
    RecordedInsert,
    Row,
    T,
    Ts,
    UnavailableError,
    Unit,
    single,
)
from storage.postgres_connection import ENDED, UncertainError
from storage.postgres_hosts import LOST, HostList
from storage.postgres_pool import TOO_LATE, ConnectionPool

TOGETHER = 32
"""How many units of one statement share a commit at the most."""


class Job(NamedTuple):
    """A unit of work of one statement, which waits for a turn."""

    query: Callable[..., Unit[Any]]
    args: tuple[Any, ...]
    outcome: asyncio.Future[Any]
    due: float
    """Until when it waits, by the loop's clock."""


class Outcome(NamedTuple):
    """What a query has returned, or what it has raised itself."""

    result: Any = None
    error: Exception | None = None


@single
def run_jobs(jobs: Sequence[Job]) -> Unit[list[Outcome]]:
    """Run several units of one statement as one, which fails if one of their rows does.

    The error of a query, for which nothing was done then, is that of its job alone.
    """
    units = [job.query(*job.args) for job in jobs]
    yielded = [next(unit) for unit in units]
    statement = yielded[0][0]
    assert isinstance(statement, RecordedInsert)  # noqa: S101 - for mypy: all are that
    values = json.dumps([parameters for _, parameters in yielded])
    found: dict[int, list[Row]] = {}
    for place, *ids in (yield statement.several, (values,)):
        found[place] = [tuple(ids)]
    outcomes = []
    for place, unit in enumerate(units, 1):
        try:
            unit.send(found.get(place, []))
        except StopIteration as done:
            outcomes.append(Outcome(done.value))
        except Exception as exc:
            outcomes.append(Outcome(error=exc))
    return outcomes


class WriterPool(ConnectionPool):
    """Connections that write: while all are busy, what is added shares commits.

    So the additions of many clients cost what the disk, the standby or the way to the
    server takes once for several of them. A unit that finds a connection free is a
    transaction of its own, without a BEGIN.
    """

    def __init__(self, hosts: HostList, size: int) -> None:
        super().__init__(hosts, size, writing=True)
        self._jobs: deque[Job] = deque()
        self._runners = 0

    def submit(self, query: Callable[[*Ts], Unit[T]], *args: *Ts) -> asyncio.Future[T]:
        """Run a unit in its turn, one of a single statement perhaps with others."""
        if query not in SINGLE_QUERIES:
            return super().submit(query, *args)
        self._admit()
        loop = asyncio.get_running_loop()
        job = Job(query, args, loop.create_future(), loop.time() + TURN_SECONDS)
        self._jobs.append(job)
        if self._runners < self.size:
            self._runners += 1
            self._start(self._run_waiting())
        return asyncio.shield(job.outcome)

    def _turns(self) -> float:
        """Return how many turns the units take that wait."""
        jobs = len(self._jobs)
        return self.waiting - jobs + jobs / TOGETHER

    async def _run_waiting(self) -> None:
        """Run jobs in turn until none waits."""
        try:
            while self._jobs:
                try:
                    async with asyncio.timeout_at(self._jobs[0].due):
                        await self._free.acquire()
                except TimeoutError:
                    self._drop_late()
                    continue
                self.taken += 1
                try:
                    await self._run_some()
                finally:
                    self.taken -= 1
                    self._free.release()
        finally:
            self._runners -= 1

    def _drop_late(self) -> None:
        """Give up the jobs that have waited too long."""
        now = asyncio.get_running_loop().time()
        while self._jobs and self._jobs[0].due <= now:
            self.waiting -= 1
            self._jobs.popleft().outcome.set_exception(UnavailableError(TOO_LATE))

    async def _run_some(self) -> None:
        """Run the jobs that have waited longest, as one unit if they are several.

        Nobody shares a commit while there are turns for all.
        """
        share = ceil(len(self._jobs) / (1 + self.size - self.taken))
        jobs: list[Job] = []
        while self._jobs and len(jobs) < min(share, TOGETHER):
            if jobs and self._jobs[0].query is not jobs[0].query:
                break  # only those of one statement can be one
            jobs.append(self._jobs.popleft())
        self.waiting -= len(jobs)
        if len(jobs) == 1:
            [job] = jobs
            await _settle(job.outcome, self._run_in_time(job.query, *job.args))
        elif jobs:
            await self._run_together(jobs)

    async def _run_together(self, jobs: list[Job]) -> None:
        try:
            outcomes = await self._run_in_time(run_jobs, jobs)
        except Exception as exc:
            for job in jobs:
                if not _is_of_one(exc):
                    job.outcome.set_exception(exc)
                    continue
                self.waiting += 1
                alone = self._take_turn(job.query, *job.args)
                self._start(_settle(job.outcome, alone))
            return
        self.units += len(jobs) - 1
        for job, (result, error) in zip(jobs, outcomes, strict=True):
            if error is not None:
                job.outcome.set_exception(error)
            else:
                job.outcome.set_result(result)


def _is_of_one(exc: Exception) -> bool:
    """Return whether the others may well succeed: it is no error of the connection."""
    cause = exc.__cause__ or exc
    if isinstance(exc, UncertainError) or isinstance(cause, (TimeoutError, *LOST)):
        return False
    return getattr(cause, "severity_en", None) not in ENDED


async def _settle(outcome: asyncio.Future[T], run: Awaitable[T]) -> None:
    """Give a future the outcome of what is run."""
    try:
        outcome.set_result(await run)
    except Exception as exc:
        outcome.set_exception(exc)
