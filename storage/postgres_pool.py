"""Pools of a few connections to PostgreSQL, which run units of work in turn."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from storage.engine import TURN_SECONDS, T, Ts, UnavailableError, Unit, check_wait
from storage.postgres_connection import (
    CUT_OFF,
    PooledConnection,
    PostgresConnection,
    UncertainError,
    code_of,
    is_collision,
    is_full,
    translate,
)
from storage.postgres_hosts import ERRORS, HostList
from storage.postgres_pooler import WANDERED
from storage.postgres_settings import UNIT_SECONDS

TOO_LATE = "it waited too long for its turn"
ATTEMPTS = 5
"""How often a unit is run that collides with others or is cut off."""
RETRY_SECONDS = 0.01
RELEASE_SECONDS, RELEASE_TRIES = 0.05, 20
"""How often, and how many times, to try whether a closed connection made room."""
IDLE_SECONDS = 60.0
"""How long a pool keeps more than one connection that it does not use."""
SLOW_SECONDS = 1.0
"""Past this a unit may wait for a standby that is gone."""


class ConnectionPool:
    """Connections that take units of work in turn."""

    def __init__(
        self, hosts: HostList, size: int, writing: bool = False, reporting: bool = False
    ) -> None:
        self.hosts = hosts
        self.size = size
        self.writing = writing
        self.reporting = reporting
        """Whether a unit sees one snapshot, and ends when its caller goes away."""
        self.idle: list[PostgresConnection] = []
        self.running: dict[PostgresConnection, float] = {}
        """The connections that run a unit, and since when by the loop's clock."""
        self.connecting = 0
        """How many connections are being opened."""
        self.doubtful = False
        """Whether the outcome of a commit was unknown, since one last succeeded."""
        self.waiting = self.taken = 0
        """How many units wait for their turn, and how many turns are taken."""
        self.units = self.commits = 0
        self.unit_seconds = 0.0
        self._free = asyncio.Semaphore(size)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self.siblings = [self]
        """The pools that share the server's limit on connections, this one too."""
        self.returned = asyncio.Event()
        """Set whenever one of them has put a connection back."""

    @property
    def is_idle(self) -> bool:
        """Return whether no unit waits and none runs."""
        return not self._tasks

    def submit(self, query: Callable[[*Ts], Unit[T]], *args: *Ts) -> asyncio.Future[T]:
        """Run a unit in its turn, even if its caller goes away meanwhile.

        OverloadedError if it would wait too long.
        """
        self._admit()
        task = self._start(self._take_turn(query, *args))
        return task if self.reporting else asyncio.shield(task)

    def _admit(self) -> None:
        """Let a unit wait for its turn. OverloadedError."""
        if self.waiting:
            check_wait(self.unit_seconds * (1 + self._turns()) / self.size)
        self.waiting += 1

    def _start(self, run: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run something that is waited for when the pool is closed."""
        task = asyncio.create_task(run)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _turns(self) -> float:
        """Return how many turns the units take that wait."""
        return self.waiting

    async def _take_turn(self, query: Callable[[*Ts], Unit[T]], *args: *Ts) -> T:
        try:
            async with asyncio.timeout(TURN_SECONDS):
                await self._free.acquire()
        except TimeoutError as exc:
            raise UnavailableError(TOO_LATE) from exc
        finally:
            self.waiting -= 1
        self.taken += 1
        try:
            return await self._run_in_time(query, *args)
        finally:
            self.taken -= 1
            self._free.release()

    async def _run_in_time(self, query: Callable[[*Ts], Unit[T]], *args: *Ts) -> T:
        """Run a unit in its turn, with all its attempts. Errors as the caller's."""
        try:
            async with asyncio.timeout(UNIT_SECONDS):
                return await self._run_again(query, *args)
        except Exception as exc:
            if error := translate(exc):
                raise error from exc
            raise

    async def _run_again(self, query: Callable[[*Ts], Unit[T]], *args: *Ts) -> T:
        """Run a unit, and again after a collision or a lost connection."""
        for attempt in range(1, ATTEMPTS):
            try:
                return await self._run(query, *args)
            except ERRORS as exc:
                if not is_collision(exc) and code_of(exc) not in CUT_OFF:
                    raise
            await asyncio.sleep(RETRY_SECONDS * attempt)
        return await self._run(query, *args)

    async def _run(self, query: Callable[[*Ts], Unit[T]], *args: *Ts) -> T:
        time = asyncio.get_running_loop().time
        connection, sound, began = None, False, time()
        try:
            connection = await self._take()
            began = time()  # a new connection is no part of what units take
            self.running[connection] = began
            result = await connection.run(query, *args)
            sound = True
        except Exception as exc:
            self.doubtful |= isinstance(exc, UncertainError)
            sound = connection is not None and await connection.recover(exc)
            self.hosts.pooler.found |= code_of(exc) in WANDERED
            raise
        finally:  # a time limit comes as a cancellation, and leaves it unsound
            self.unit_seconds += (time() - began - self.unit_seconds) / 8
            if connection is not None:
                self._put_back(connection, sound)
        self.units += 1
        self.commits += 1
        return result

    async def _take(self) -> PostgresConnection:
        """Return a connection that nobody uses, or a new one. Errors of asyncpg."""
        tries = 0
        while True:
            while self.idle:
                connection = self.idle.pop()
                current = connection.generation == self.hosts.generation
                if current and not connection.raw.is_closed():
                    return connection
                connection.raw.terminate()
            try:
                return await self._connect()
            except ERRORS as exc:
                if not is_full(exc):
                    raise
                if await self._close_idle_sibling():
                    tries = RELEASE_TRIES
                elif not tries and not self._is_any_in_use():
                    raise
            if tries:  # the server takes a moment until it counts one less
                tries -= 1
                await asyncio.sleep(RELEASE_SECONDS)
            elif not self.idle:
                self.returned.clear()
                with suppress(TimeoutError):  # one that was opened may have failed
                    async with asyncio.timeout(RELEASE_SECONDS * RELEASE_TRIES):
                        await self.returned.wait()

    def _is_any_in_use(self) -> bool:
        """Return whether a connection of any pool is to be put back some time."""
        return any(pool.running or pool.connecting for pool in self.siblings)

    async def _close_idle_sibling(self) -> bool:
        """Close a connection that another pool does not use; return whether one is."""
        for pool in self.siblings:
            if pool.idle:
                await pool.idle.pop(0).close()
                return True
        return False

    def _close_idle(self) -> None:
        """Close what has been idle for long, but for one connection."""
        loop = asyncio.get_running_loop()
        self._timer = None
        while len(self.idle) > 1:
            rest = self.idle[0].idle_since + IDLE_SECONDS - loop.time()
            if rest > 0:
                self._timer = loop.call_later(rest, self._close_idle)
                return
            self._close(self.idle.pop(0))

    def _close(self, connection: PostgresConnection) -> None:
        """Close a connection beside all else."""
        closing = asyncio.get_running_loop().create_task(connection.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def _connect(self) -> PostgresConnection:
        generation = self.hosts.generation
        connection: PostgresConnection
        self.connecting += 1
        try:
            raw = await self.hosts.connect(self.writing)
            options = generation, self.writing, self.reporting
            pooler = self.hosts.pooler
            if pooler.found:
                connection = PooledConnection(pooler.settings, raw, *options)
            else:
                connection = PostgresConnection(raw, *options)
            try:
                await connection.set_up()
            except BaseException:
                raw.terminate()
                raise
        finally:
            self.connecting -= 1
        return connection

    def _put_back(self, connection: PostgresConnection, sound: bool) -> None:
        """Keep a connection, or close it and begin a generation without its like."""
        # After one connection has found that a host is gone or became a standby, the
        # others need not find it one by one.
        del self.running[connection]
        self.returned.set()
        if sound:
            loop = asyncio.get_running_loop()
            connection.idle_since = loop.time()
            self.idle.append(connection)
            if self._timer is None and len(self.idle) > 1:
                self._timer = loop.call_later(IDLE_SECONDS, self._close_idle)
            return
        if self.reporting:  # it was stopped, and the server is to hear that
            self._close(connection)
            return
        connection.raw.terminate()
        if connection.generation == self.hosts.generation:
            self.hosts.generation += 1

    def is_doubtful(self) -> bool:
        """Return whether commits may not come to an end, though writes begin."""
        late = asyncio.get_running_loop().time() - SLOW_SECONDS
        return self.doubtful or any(began < late for began in self.running.values())

    def cut_off(self) -> None:
        """Cut what waits for a host that is no longer the one to be used."""
        for connection in self.running:
            if connection.generation != self.hosts.generation:
                connection.raw.terminate()

    async def close(self) -> None:
        """Finish the units that were accepted, then close the connections."""
        if self._timer is not None:
            self._timer.cancel()
        if tasks := self._tasks | self._closing:
            await asyncio.wait(tasks)
        await asyncio.gather(*(connection.close() for connection in self.idle))
        self.idle.clear()
