"""What is done beside the requests: forgetting what is old, filling in indexes."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import db

LOG = logging.getLogger("server")

FORGET_SECONDS, PAUSE_SECONDS = 60.0, 0.01
"""How often old rows are removed, and how long after each unit of that."""
INDEX_SECONDS, PAUSES, FEW_SECONDS = 0.5, 1.0, 30.0
"""How often indexes are looked after; how many times as long as a unit of that took to
wait after it; how long names wait that are few."""
QUIET_SECONDS, MANY_CHANGES = 2.0, 100
"""How long nothing is written before all purchases are copied, and from how many rows
of the history in INDEX_SECONDS on none is."""


def start(engine: db.Engine, history_days: int) -> list[asyncio.Task[None]]:
    """Begin with all of it; return the tasks, to be cancelled."""
    work = forget(engine, history_days), fill_indexes(engine)
    return [asyncio.create_task(task) for task in work]


@contextmanager
def _going_on(fault: str) -> Iterator[None]:
    """Let a task that runs beside the requests go on after an error."""
    try:
        yield
    except (db.UnavailableError, db.DiskFullError):
        pass  # every request says so already
    except Exception:
        LOG.exception(fault)


async def forget(engine: db.Engine, history_days: int) -> None:
    """Remove what is kept no longer, little by little, off the path of requests."""
    while True:
        oldest = db.now(max(history_days, 1) * 24 * 3600)
        with _going_on("what is old is kept"):
            more = True
            while more:
                more = await engine.write(db.forget_some, oldest)
                await asyncio.sleep(PAUSE_SECONDS)
        await asyncio.sleep(FORGET_SECONDS)


async def fill_indexes(engine: db.Engine) -> None:
    """Keep the indexes near to what they index, behind those who write."""
    clock, since = asyncio.get_running_loop().time, 0.0
    copier = Copier(engine)
    while True:
        await asyncio.sleep(INDEX_SECONDS)
        with _going_on("searches become slow"):
            count = await engine.read(db.count_unindexed)
            since = (since or clock()) if count else 0.0
            if count == db.INDEX_ROWS or (count and clock() - since > FEW_SECONDS):
                await _repeat(engine, db.index_names)
            if await engine.read(db.is_fillable):
                await _repeat(engine, db.fill_blocks)
            await copier.copy()


class Copier:
    """Copies purchases for lists: all while nobody writes, some while few do.

    Each costs as much as to add it did. While few write, it copies as many as can be
    added meanwhile. It looks at the history, since other processes may write too.
    """

    def __init__(self, engine: db.Engine) -> None:
        self.engine = engine
        self.last = 0
        """The last change when it last looked."""
        self.changed_at = 0.0

    async def copy(self) -> None:
        """Copy purchases, if there is time. UnavailableError, DiskFullError."""
        now, write = asyncio.get_running_loop().time(), self.engine.write
        is_behind, last = await self.engine.read(db.read_copy_state)
        changes, self.last = last - self.last, last
        if changes:
            self.changed_at = now
        if is_behind and 0 < changes < MANY_CHANGES:
            await write(db.copy_purchases, db.COPIED_ROWS, db.COPIED_ROWS)
        elif is_behind and now - self.changed_at > QUIET_SECONDS:
            while await write(db.copy_purchases) and last == self.last:
                await asyncio.sleep(PAUSE_SECONDS)
                _, last = await self.engine.read(db.read_copy_state)


async def _repeat(engine: db.Engine, query: Callable[[], db.Unit[bool]]) -> None:
    """Write with a query until it has nothing to do, mostly leaving others alone."""
    clock, more = asyncio.get_running_loop().time, True
    while more:
        began = clock()
        more = await engine.write(query)
        await asyncio.sleep(PAUSES * (clock() - began))
