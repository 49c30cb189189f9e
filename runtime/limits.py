"""How many connections a process may hold, by its files and memory; giving it back."""

import ctypes
import os
import resource
from contextlib import suppress
from pathlib import Path

SPARE_FILES = 96
"""File descriptors that connections leave to the database, the logs and refusals."""
MEMORY_SHARE = 4
"""Connections take at most one part in so many of the memory."""
CONNECTION_BYTES = 64 * 1024
"""What a connection takes while its client sends a head and never ends it."""
V1_LIMIT = "memory/memory.limit_in_bytes"
CGROUPS = Path("/sys/fs/cgroup")
"""Where the limits of containers and services stand (docs.kernel.org: cgroup-v2)."""


def raise_file_limit() -> int:
    """Allow as many open files as this process may; return how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS has another limit beside an endless one
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return soft if soft > 0 else 1 << 20


def memory_bytes() -> int:
    """Return the memory that this process may use."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    group = Path()
    with suppress(OSError):  # no Linux
        line = Path("/proc/self/cgroup").read_text().splitlines()[-1]
        group = Path(line.rpartition(":")[2].lstrip("/"))
    folders = [CGROUPS / group, *(CGROUPS / group).parents]
    files = [folder / "memory.max" for folder in folders if CGROUPS in folder.parents]
    for file in (*files, CGROUPS / "memory.max", CGROUPS / V1_LIMIT):
        with suppress(OSError, ValueError):  # not there, or "max"
            limits.append(int(file.read_text()))
    return min(limits)


def max_connections(workers: int) -> int:
    """Return how many connections each of some processes may hold; raise the limit."""
    by_memory = memory_bytes() // MEMORY_SHARE // CONNECTION_BYTES // workers
    return max(min(raise_file_limit() - SPARE_FILES, by_memory), 16)


def release_memory() -> None:
    """Give memory that is free back to the system, where glibc keeps it."""
    # malloc_trim(3): only what lies at the end of the heap would be given back by
    # itself, and after many connections something else always lies there.
    with suppress(OSError, AttributeError):  # another library of C
        ctypes.CDLL(None).malloc_trim(0)
