"""What a server did to its files and sockets, call by call: the log of record.c."""

import atexit
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from enum import IntEnum
from functools import cache
from pathlib import Path
from struct import Struct
from tempfile import mkdtemp
from typing import NamedTuple

SOURCE = Path(__file__).with_name("record.c")
RECORD = Struct("=IIQIIqQqIIII")
"""`struct record` of record.c."""


class NotRunError(Exception):
    """This machine cannot record; the text says why."""


class RecordingError(Exception):
    """The recording holds what the model of a disk does not know."""


class Kind(IntEnum):
    """What a call does; `enum kind` of record.c."""

    OPEN = 0
    WRITE = 1
    TRUNCATE = 2
    SYNC = 3
    RENAME = 4
    LINK = 5
    UNLINK = 6
    MKDIR = 7
    RMDIR = 8
    SEND = 9
    STRANGE = 10
    READ = 11
    """Not written down; may fail."""


class Call(NamedTuple):
    """A call, with the places in the log at which it began and was over."""

    kind: Kind
    began: int
    ended: float
    """Infinite where it was under way when the recording ended."""
    result: int | None
    """None where its process was killed in it."""
    file: int
    offset: int
    existed: bool
    path: str
    other: str
    data: bytes


@cache
def library() -> Path:
    """Compile record.c and return the library. NotRunError where that cannot be."""
    if sys.platform != "linux":
        raise NotRunError("record.c stands in for the libc of Linux")
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise NotRunError("there is no C compiler")
    folder = mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    built = Path(folder) / "record.so"
    files = ["-o", str(built), str(SOURCE), "-ldl"]
    command = [compiler, "-O1", "-shared", "-fPIC", *files]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise NotRunError(f"{SOURCE.name} does not compile: {done.stderr[-300:]}")
    return built


def recorded(root: Path, log: Path, faults: Path) -> dict[str, str]:
    """Return the environment in which a process is recorded and its calls may fail."""
    return {
        "LD_PRELOAD": str(library()),
        "RECORD_ROOT": str(root.resolve()),
        "RECORD_LOG": str(log),
        "RECORD_FAULTS": str(faults),
    }


class _Record(NamedTuple):
    pid: int
    call: int
    kind: int
    after: int
    result: int
    file: int
    offset: int
    existed: int
    path: str
    other: str
    data: bytes


def _records(log: bytes) -> Iterator[_Record]:
    place = 0
    while place < len(log):
        fields: tuple[int, ...] = RECORD.unpack_from(log, place)
        size, paths, others, data = fields[0], *fields[-3:]
        start = place + RECORD.size
        ends = start + paths, start + paths + others, start + paths + others + data
        path, other = log[start : ends[0]], log[ends[0] : ends[1]]
        content = log[ends[1] : ends[2]]
        names = os.fsdecode(path), os.fsdecode(other)
        yield _Record._make((*fields[1:-3], *names, content))
        place += size


def read_calls(log: Path) -> list[Call]:
    """Return the calls of a log in the order in which they began. RecordingError."""
    records = [*_records(log.read_bytes())]
    ends: dict[tuple[int, int], tuple[int, _Record]] = {}
    last: dict[int, int] = {}
    for place, record in enumerate(records):
        last[record.pid] = place
        if record.after:
            ends[record.pid, record.call] = place, record
        elif record.kind == Kind.STRANGE:
            raise RecordingError(f"{record.other} of {record.path}")
    return [
        _call(place, record, ends, last)
        for place, record in enumerate(records)
        if not record.after
    ]


def _call(
    place: int,
    record: _Record,
    ends: Mapping[tuple[int, int], tuple[int, _Record]],
    last: Mapping[int, int],
) -> Call:
    found = ends.get((record.pid, record.call))
    if found:
        ended: float = found[0]
        result: int | None = found[1].result
    else:  # its process has gone, at the latest before the next one did something
        gone = last[record.pid]
        ended = gone + 0.5 if gone < max(last.values()) else math.inf
        result = None
    return Call(
        Kind(record.kind),
        place,
        ended,
        result,
        record.file or (found[1].file if found else 0),
        record.offset,
        bool(record.existed),
        record.path,
        record.other,
        record.data,
    )
