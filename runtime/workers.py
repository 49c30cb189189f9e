"""Worker processes that share one port: their supervisor, and shared metrics."""

import asyncio
import logging
import os
import signal
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable
from mmap import mmap
from typing import NamedTuple
from zlib import crc32

LOG = logging.getLogger("server")

AVAILABLE = hasattr(os, "fork") and hasattr(socket, "SO_REUSEPORT")
SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
"""Signals passed on to every worker; blocked in it until it can handle them."""
STOP_SECONDS = 20.0
"""How long workers may take to stop before they are killed."""
STABLE_SECONDS = 10.0
"""A worker that ends sooner than this is restarted later each time."""
MIN_RESTART_DELAY, MAX_RESTART_DELAY = 0.25, 16.0

HALF_BYTES = 256 * 1024
HEAD = struct.Struct("QLL")


class SharedMetrics:
    """Memory that all workers share, where each writes a record for the others.

    Records alternate between two halves, so one is whole whenever a worker is killed.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.memory = mmap(-1, workers * 2 * HALF_BYTES)

    def write(self, worker: int, record: bytes) -> None:
        """Replace the record of a worker; do nothing for one that is too long."""
        if HEAD.size + len(record) > HALF_BYTES:
            return
        count = self._newest(worker)[0] + 1
        start = self._start(worker, count)
        head = HEAD.pack(count, len(record), crc32(record))
        self.memory[start : start + len(head) + len(record)] = head + record

    def read(self, worker: int) -> bytes:
        """Return the last record of a worker, b"" if it has written none."""
        return self._newest(worker)[1]

    def others(self, worker: int) -> list[bytes]:
        """Return the last records of all workers but one."""
        numbers = (number for number in range(self.workers) if number != worker)
        return [record for record in map(self.read, numbers) if record]

    def _newest(self, worker: int) -> tuple[int, bytes]:
        newest = 0, b""
        for half in range(2):
            start = self._start(worker, half)
            count, length, check = HEAD.unpack_from(self.memory, start)
            start += HEAD.size
            record = self.memory[start : start + length]
            if count > newest[0] and crc32(record) == check:
                newest = count, record
        return newest

    def _start(self, worker: int, count: int) -> int:
        return (2 * worker + count % 2) * HALF_BYTES


class Worker(NamedTuple):
    """A worker process, as it sees itself; `first` is true in one of all."""

    number: int
    first: bool
    metrics: SharedMetrics
    parent_pipe: int
    """A file descriptor whose other end only the supervisor holds."""

    def handle_signals(self, stop: Callable[[], None]) -> None:
        """Unblock the signals, and stop when the supervisor has ended."""
        loop = asyncio.get_running_loop()

        def orphaned() -> None:
            loop.remove_reader(self.parent_pipe)
            stop()

        loop.add_reader(self.parent_pipe, orphaned)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def free_port(host: str, port: int) -> int:
    """Return a port that nobody listens on, the named one unless that is 0. OSError."""
    # Workers can share a port with anybody, another server too.
    family, kind, _, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    with socket.socket(family, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
        number: int = probe.getsockname()[1]
        return number


def start(count: int, reload: Callable[[], None]) -> Worker:
    """Return in each of `count` workers; supervise them until all have ended.

    The supervisor reloads on SIGHUP too, for the workers that it starts later. It
    raises SystemExit.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {*SIGNALS, signal.SIGCHLD, signal.SIGALRM})
    return Supervisor(count, reload).supervise()


class Supervisor:
    """Keeps `count` workers running until a signal says to stop."""

    def __init__(self, count: int, reload: Callable[[], None]) -> None:
        self.metrics = SharedMetrics(count)
        self.reload = reload
        self.parent_pipe, self._held = os.pipe()
        self.due = dict.fromkeys(range(count), 0.0)
        """The times to start the workers that do not run, by their numbers."""
        self.running: dict[int, int] = {}
        """The numbers of the workers that run, by their process ids."""
        self.began: dict[int, float] = {}
        self.restarts: Counter[int] = Counter()
        self.stopping = False
        self.kill_deadline = 0.0
        """When the workers that do not stop are killed, on the monotonic clock."""
        self.status = 0

    def supervise(self) -> Worker:
        """Return in each worker. SystemExit in the supervisor, when all have ended."""
        while not self.stopping or self.running:
            number = self._next_due()
            if number is not None:
                first = number not in self.began
                self.began[number] = time.monotonic()
                if pid := os.fork():
                    self.running[pid] = number
                    continue
                os.close(self._held)
                signal.pthread_sigmask(
                    signal.SIG_UNBLOCK, {signal.SIGCHLD, signal.SIGALRM}
                )
                return Worker(
                    number, first and number == 0, self.metrics, self.parent_pipe
                )
            self._handle(signal.sigwait({*SIGNALS, signal.SIGCHLD, signal.SIGALRM}))
        raise SystemExit(self.status)

    def _next_due(self) -> int | None:
        """Return a worker to start now; else set an alarm for the next."""
        if self.stopping or not self.due:
            return None
        number = min(self.due, key=self.due.__getitem__)
        wait = self.due[number] - time.monotonic()
        if wait > 0:
            signal.setitimer(signal.ITIMER_REAL, wait)
            return None
        del self.due[number]
        return number

    def _handle(self, number: int) -> None:
        if number == signal.SIGCHLD:
            self._reap()
        elif number == signal.SIGHUP:
            self.reload()
            self._send(signal.SIGHUP)
        elif number != signal.SIGALRM:
            self._send(signal.SIGTERM)
            if self.stopping:  # told twice, as a terminal and a service manager may
                return
            LOG.info("stopping")
            self.stopping = True
            self.kill_deadline = time.monotonic() + STOP_SECONDS
            signal.setitimer(signal.ITIMER_REAL, STOP_SECONDS, 1)
        elif self.stopping and time.monotonic() >= self.kill_deadline:
            LOG.error("killing the workers that do not stop")
            self._send(signal.SIGKILL)

    def _send(self, number: int) -> None:
        for pid in self.running:
            os.kill(pid, number)

    def _reap(self) -> None:
        """Collect the workers that have ended, and plan their restarts."""
        for pid in tuple(self.running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if not ended:
                continue
            number = self.running.pop(pid)
            code = os.waitstatus_to_exitcode(status)
            if self.stopping:
                # One that had stopped already may die of a signal sent to all.
                self.status |= code not in (0, -signal.SIGTERM)
                continue
            delay = self._restart_delay(number)
            self.due[number] = time.monotonic() + delay
            LOG.error("worker %s ended with %s: another in %s s", number, code, delay)

    def _restart_delay(self, number: int) -> float:
        """Return the seconds to wait before a worker is restarted."""
        if time.monotonic() - self.began[number] > STABLE_SECONDS:
            self.restarts[number] = 0
        self.restarts[number] += 1
        return min(
            MIN_RESTART_DELAY * 2.0 ** (self.restarts[number] - 1), MAX_RESTART_DELAY
        )
