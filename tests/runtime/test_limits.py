"""How many connections a process may hold."""

import platform
import resource
from pathlib import Path

import pytest

from runtime import limits


def test_memory_of_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The least of the machine's and the limits above this process."""
    monkeypatch.setattr(limits, "CGROUPS", tmp_path)
    whole = limits.memory_bytes()
    assert whole > 1 << 26
    (tmp_path / "memory.max").write_text("max\n")
    assert limits.memory_bytes() == whole
    (tmp_path / "memory.max").write_text(f"{1 << 26}\n")
    assert limits.memory_bytes() == 1 << 26


@pytest.mark.parametrize(
    ("memory", "files", "workers", "number"),
    [
        (1 << 40, 1000, 1, 1000 - limits.SPARE_FILES),
        (1 << 28, 1 << 20, 1, 1024),
        (1 << 28, 1 << 20, 4, 256),
        (1 << 20, 100, 1, 16),
    ],
)
def test_max_connections(
    monkeypatch: pytest.MonkeyPatch, memory: int, files: int, workers: int, number: int
) -> None:
    monkeypatch.setattr(limits, "memory_bytes", lambda: memory)
    monkeypatch.setattr(limits, "raise_file_limit", lambda: files)
    assert limits.max_connections(workers) == number


def test_file_limit_that_cannot_be_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """The start goes on, with the limit that there is."""

    def refuse(*_: object) -> None:
        raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, -1))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert limits.raise_file_limit() == 256


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another library of C")
def test_memory_is_released() -> None:
    """Also what lies below something that is still in use."""

    def resident() -> int:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize()

    blocks = [bytearray(b"x" * 32_000) for _ in range(2000)]
    used = blocks[-1]
    before = resident()
    blocks.clear()
    limits.release_memory()
    assert before - resident() > 1600 * 32_000
    assert used[0] == ord("x")
