"""Makes calls of a running process fail: the table of record.c."""

import errno
from collections.abc import Iterable
from mmap import mmap
from pathlib import Path
from struct import Struct

from checks.powercut.recording import Kind

FAULT = Struct("=IiiiIIII32s")
"""`struct fault` of record.c."""
COUNT = 16
SPOILED = 24
"""Where in it the calls are counted that failed."""


class Faults:
    """A table of faults that every recorded process of a folder has in its memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            path.write_bytes(bytes(FAULT.size * COUNT))
        with path.open("r+b") as file:
            self.memory = mmap(file.fileno(), 0)

    def make(
        self,
        kinds: Iterable[Kind],
        suffix: str,
        error: int = errno.EIO,
        skip: int = 0,
        count: int = -1,
        milliseconds: int = 0,
        kill: bool = False,
        part: int = 0,
        slot: int = 0,
    ) -> None:
        """Let calls on paths with an end fail, `count` of them or, at -1, for ever."""
        bits = sum(1 << kind for kind in kinds)
        fault = (skip, count, error, milliseconds, kill, 0, part, suffix.encode())
        place = slot * FAULT.size
        self.memory[place : place + FAULT.size] = FAULT.pack(0, *fault)
        self.memory[place : place + 4] = bits.to_bytes(4, "little")

    def clear(self) -> None:
        """Let every call do what it should."""
        for slot in range(COUNT):
            place = slot * FAULT.size
            self.memory[place : place + 4] = bytes(4)

    def spoiled(self, slot: int = 0) -> int:
        """Return how many calls failed."""
        place = slot * FAULT.size + SPOILED
        return int.from_bytes(self.memory[place : place + 4], "little")
