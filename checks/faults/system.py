"""Calls of the operating system that fail or hang, and a power cut after each.

The libc in between is that of checks.powercut: it lets calls fail, and writes down what
the server did, so that the disks can be tried that a power cut would have left.
"""

import asyncio
import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

from checks.faults.trial import (
    CUSTOMERS,
    Fault,
    Finding,
    NotRunError,
    Size,
    on_server,
    statuses_of,
    text_of,
)
from checks.powercut.judge import Judge, Verdict
from checks.powercut.ledger import DATABASE
from checks.powercut.recording import Kind, NotRunError as NotRecordedError, library
from checks.powercut.session import Session, load, until_stored
from checks.support.server_process import PROJECT, Server, call
from checks.support.undoing_client import UndoingClient
from checks.support.write_log import CHANCE, Answer, Json, WriteLog, audit, writing
from storage.engine import UNKNOWN_OUTCOME

CLIENTS, STEPS = 8, 6
CUTS, PLANS = 60, 6
DESCRIPTORS = 100
"""How many connections come when there is no descriptor left for one."""
AGAIN_SECONDS = 10.0
"""How soon writes must go on after the fault: there is a check every five seconds."""
MEMORY_LIMIT = 24.0
"""How many MiB the server may grow by while the fault lasts."""
ACCEPTED = {200, 201, 409, 503}
JOHN = {"name": "John", "address": "Delft"}
COMMIT = (Kind.WRITE, Kind.SYNC, Kind.TRUNCATE)
"""What a commit and a checkpoint do to files."""
MOST_CALLS = 60
"""More than a write and a checkpoint make."""


class WaryClient(UndoingClient):
    """A client that takes a write for unknown when it is told so."""

    async def send(
        self, method: str, path: str, body: Json, name: str | None, key: str | None
    ) -> Answer | None:
        """Send one write; None also where nobody knows whether it was stored."""
        answer = await super().send(method, path, body, name, key)
        if answer is not None and UNKNOWN_OUTCOME.encode() in answer.body:
            return None
        return answer


class Failure(NamedTuple):
    """Which calls fail, how, and for how long."""

    kinds: tuple[Kind, ...]
    suffix: str
    error: int = errno.EIO
    times: int = -1
    milliseconds: int = 0
    part: int = 0
    seconds: float = 3.0


def failing(folder: Path, size: Size, failure: Failure) -> Finding:
    """Let calls fail under load, then no more, and look what became of it."""
    session = _session(folder)
    server, log, result = session.server(), WriteLog(), Finding()
    try:
        server.start()
        asyncio.run(_fail(session, server, failure, log, result))
        result.expect(server.stop() == 0, "it did not stop in order")
    finally:
        server.stop(signal.SIGKILL)
    _judge(session, log, result)
    return result


def _session(folder: Path, *changes: str) -> Session:
    try:
        library()
    except NotRecordedError as exc:
        raise NotRunError(str(exc)) from exc
    session = Session(folder, changes)
    session.begin()
    return session


async def _fail(
    session: Session, server: Server, failure: Failure, log: WriteLog, result: Finding
) -> None:
    write = partial(load, server, CLIENTS, STEPS, WaryClient, log)
    await write()
    server.reset_peak()
    memory, before = server.memory(), len(log.sent)
    make = partial(session.faults.make, failure.kinds, failure.suffix, failure.error)
    make(count=failure.times, milliseconds=failure.milliseconds, part=failure.part)
    end = time.monotonic() + failure.seconds
    while time.monotonic() < end:
        await write()
        read = await asyncio.to_thread(call, server, "GET", CUSTOMERS)
        result.expect(
            read.status == 200 or (read.status == 503 and Kind.READ in failure.kinds),
            f"a list was answered {read.status}",
        )
        await asyncio.sleep(failure.seconds / 12)
    grown = server.memory("VmHWM") - memory
    session.faults.clear()
    again = await asyncio.to_thread(seconds_until_stored, server)
    during = [sent.status for sent in log.sent[before:]]
    await write()
    spoiled = session.faults.spoiled()
    result.figures = (
        f"{spoiled} calls failed; writes {text_of(during)}; grown by {grown:.0f} MiB; "
        f"writing again after {again:.1f} s"
    )
    result.expect(spoiled > 0, "no call failed")
    strange = set(during) - accepted(failure.error)
    result.expect(not strange, f"answers {strange}")
    result.expect(grown < MEMORY_LIMIT, f"it grew by {grown:.0f} MiB")
    result.expect(again < AGAIN_SECONDS, f"no write for {again:.1f} s")


def accepted(error: int) -> set[int]:
    """Return the statuses that writes may have while calls fail with an errno."""
    return ACCEPTED | ({507} if error == errno.ENOSPC else set())


def seconds_until_stored(server: Server) -> float:
    """Return the seconds until a write is stored. RuntimeError after too many."""
    began = time.monotonic()
    until_stored(partial(call, server, "POST", CUSTOMERS, JOHN))
    return time.monotonic() - began


def _judge(session: Session, log: WriteLog, result: Finding) -> None:
    """Audit the file, and every disk that a power cut may have left."""
    verdict = Verdict()
    judge = Judge(session.root, session.start, session.log, verdict)
    with closing(judge):
        judge.check_model()
        judge.read_commits()
        places = judge.places(0, CUTS)
        judge.try_cuts(places, PLANS, CHANCE.getrandbits(32))
    result.figures += f"; {verdict.states} disks after a cut"
    result.breaches += [f"after a cut: {example}" for example in verdict.examples[:3]]
    hold_against(log, session.database, result)


def hold_against(log: WriteLog, database: Path, result: Finding) -> None:
    """Audit a file; the rows of `seconds_until_stored` are in no log."""
    found = audit(log, database)
    found.stray = [name for name in found.stray if name != JOHN["name"]]
    result.breaches += found.breaches() + log.wrong


def each_call(folder: Path, size: Size, error: int, part: int = 0) -> Finding:
    """Let each call of a commit and its checkpoint fail once, one after the other."""
    session = _session(folder, "eager")
    server, log, result = session.server(), WriteLog(), Finding()
    kinds = (Kind.WRITE,) if part else COMMIT
    number = 0
    try:
        server.start()
        for number in range(MOST_CALLS):
            make = partial(session.faults.make, kinds, "", error, skip=number)
            make(count=1, part=part)
            asyncio.run(load(server, 1, STEPS, WaryClient, log))
            seconds_until_stored(server)
            if session.faults.spoiled() == 0:
                break
        session.faults.clear()
        result.expect(server.stop() == 0, "it did not stop in order")
    finally:
        server.stop(signal.SIGKILL)
    statuses = [sent.status for sent in log.sent]
    result.figures = f"{number} calls, one at a time; writes {text_of(statuses)}"
    result.expect({*statuses} <= accepted(error), "another answer")
    result.expect(number > 10, "only a few calls")
    _judge(session, log, result)
    return result


STARTS = {
    errno.EIO: "OPEN READ WRITE SYNC TRUNCATE RENAME LINK UNLINK MKDIR RMDIR",
    errno.ENOSPC: "OPEN WRITE SYNC TRUNCATE LINK MKDIR",
    errno.EMFILE: "OPEN",
}
"""The calls of a start that fail, by how."""


def each_start(folder: Path, size: Size) -> Finding:
    """Let each call of a start fail once, on no file and on that of a killed server.

    And each call of a backup.
    """
    session, result, refused = _session(folder), Finding(), 0
    server = session.server()
    try:
        server.start()
        asyncio.run(load(server, 2, STEPS))
    finally:
        server.stop(signal.SIGKILL)
    shutil.copytree(session.root, folder / "kept")
    for error, kinds in STARTS.items():
        files = [str(session.database), str(session.faults.path)]
        module = "checks.faults.starts"
        command = [sys.executable, "-m", module, *files, str(error), *kinds.split()]
        done = subprocess.run(
            command,
            env={**os.environ, **session.env, "RECORD_ROOT": str(folder.resolve())},
            cwd=PROJECT,
            capture_output=True,
            text=True,
        )
        shutil.rmtree(folder / "nothing")
        *breaches, last = done.stdout.splitlines() or [""]
        result.breaches += breaches
        result.expect(last.isdecimal(), f"{last} {done.stderr[-500:]}")
        refused += int(last) if last.isdecimal() else 0
    result.figures = f"{refused} refused in one line, each next one whole"
    result.expect(refused > 0, "no start was refused")
    return result


async def no_descriptors(server: Server, size: Size) -> Finding:
    """Take all descriptors away: who is connected is served, and no one else."""
    log, result = WriteLog(), Finding()
    async with writing(server.url, log, CLIENTS, pause=0.01):
        await asyncio.sleep(0.3)
        limits = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
        lowered = server.last_descriptor() + 1, limits[1]
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, lowered)
        taken, cpu, before = time.monotonic(), server.cpu_seconds(), len(log.sent)
        peers = [await _connect(server) for _ in range(DESCRIPTORS)]
        await asyncio.sleep(2.0)
        busy = (server.cpu_seconds() - cpu) / (time.monotonic() - taken)
        during = statuses_of(log.sent[before:])
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, limits)
        for _, writer in peers:
            writer.close()
        again = await asyncio.to_thread(seconds_until_stored, server)
    hold_against(log, server.folder / DATABASE, result)
    result.figures = (
        f"{len(peers)} more connections; who was connected: {text_of(during)}; "
        f"{busy:.0%} of a core; new ones served after {again:.1f} s"
    )
    result.expect({*during} <= {200, 201}, "who was connected was not served")
    result.expect(len(during) > 20, "hardly any write")
    result.expect(busy < 0.9, "it turned in circles")
    result.expect(again < 2, "no new connection")
    return result


async def _connect(server: Server) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", server.port)


SYNC, WRITE, READ = (Kind.SYNC,), (Kind.WRITE,), (Kind.READ,)
WAL = "-wal"
LAG = 20.5
FAILURES = {
    "fsync of the WAL fails once": Failure(SYNC, WAL, times=1, seconds=1),
    "fsync of the WAL fails for 3 s": Failure(SYNC, WAL),
    "fsync of the database fails once": Failure(SYNC, DATABASE, times=1, seconds=1),
    "fsync of the database fails for 3 s": Failure(SYNC, DATABASE),
    "writes to the WAL fail for 3 s": Failure(WRITE, WAL),
    "writes to the database fail for 3 s": Failure(WRITE, DATABASE),
    "reads of the database fail for 3 s": Failure(READ, DATABASE),
    "the disk is full for the WAL": Failure(WRITE, WAL, errno.ENOSPC),
    "it is full in the middle of a page": Failure(WRITE, WAL, errno.ENOSPC, part=700),
    "it is full for the database": Failure(WRITE, DATABASE, errno.ENOSPC),
    "it is full at an fsync": Failure(SYNC, WAL, errno.ENOSPC),
    "the WAL hangs": Failure(SYNC, WAL, 0, 1, 20_000, seconds=LAG),
    "the database hangs": Failure(WRITE, DATABASE, 0, 1, 20_000, seconds=LAG),
}
SYSTEM: dict[str, Fault] = {
    **{name: partial(failing, failure=failure) for name, failure in FAILURES.items()},
    "each call of a commit fails": partial(each_call, error=errno.EIO),
    "each call finds a full disk": partial(each_call, error=errno.ENOSPC),
    "each call of a start, of a backup fails": each_start,
    "no descriptors left": on_server(no_descriptors),
    "each write is cut short": partial(each_call, error=errno.ENOSPC, part=9),
}
