"""Files that are written beside their place, and get their name when they are whole."""

import errno
import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{12}", re.DOTALL)
"""The name of the folder in which a file of some name is written. In 1.0.0 it was the
name of the file."""
SUFFIXES = ("", "-journal", "-wal", "-shm")
"""What SQLite puts behind the name of a database, for the files beside it."""
LAST_BACKUP = "-last-backup"
"""What stands behind it for a file without content: its time is that of a backup."""


@contextmanager
def temporary_file(path: Path) -> Iterator[Path]:
    """Yield an empty file that only its owner may read; delete it with all beside it.

    It stands in a folder of its own beside the path. The folder, not the file, is
    locked as long as it is used: closing a descriptor of the file would drop the locks
    of SQLite (sqlite.org/howtocorrupt.html, 2.2).
    """
    folder, lock = _make_folder(path)
    temporary = folder / path.name
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        yield temporary
    finally:
        try:
            _remove_folder(folder, path.name)
        finally:
            os.close(lock)


def _make_folder(path: Path) -> tuple[Path, int]:
    """Return a new folder and the descriptor that holds its lock."""
    while True:
        folder = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
        folder.mkdir(0o700)
        # Another process may take it for abandoned until it is locked.
        with suppress(FileNotFoundError):
            lock = os.open(folder, os.O_RDONLY)
            with suppress(OSError):  # no locks there: others leave it alone, too
                fcntl.flock(lock, fcntl.LOCK_EX)
            if folder.exists():
                return folder, lock
            os.close(lock)


def _remove_folder(folder: Path, name: str) -> None:
    for suffix in SUFFIXES:
        (folder / f"{name}{suffix}").unlink(missing_ok=True)
    with suppress(OSError):  # not empty: there is something that is not ours
        folder.rmdir()


def remove_abandoned(path: Path) -> None:
    """Remove what killed processes were writing beside a path, as far as it may.

    That is every folder of ours which no living process has locked, and a file of the
    name that 1.0.0 gave it.
    """
    with suppress(OSError):
        for found in list(path.parent.iterdir()):
            match = TEMPORARY.fullmatch(found.name)
            if match and not found.is_symlink():
                with suppress(OSError):
                    if found.is_dir():
                        _remove_unlocked_folder(found, match[1])
                    elif match[1] == path.name and found.is_file():
                        _remove_unlocked_file(found)


def _remove_unlocked_folder(folder: Path, name: str) -> None:
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove_folder(folder, name)
    finally:
        os.close(lock)


def _remove_unlocked_file(file: Path) -> None:
    # 1.0.0 has no lock of its own on it; SQLite has, as long as it writes.
    with file.open("r+b") as opened:
        fcntl.lockf(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for suffix in SUFFIXES:
            file.with_name(f"{file.name}{suffix}").unlink(missing_ok=True)


def publish(temporary: Path, path: Path, replace: bool = False) -> None:
    """Put a whole file in its place, on disk; FileExistsError unless it may replace."""
    sync(temporary)
    if replace:
        temporary.replace(path)
    else:
        _rename(temporary, path)
    sync(path.parent)


def _rename(temporary: Path, path: Path) -> None:
    """Give a file its name, if that is still free. FileExistsError."""
    try:
        os.link(temporary, path)
        return
    except FileExistsError:
        raise
    except OSError:
        pass
    # A file system without links. Nothing there is atomic and refuses to replace, so
    # processes of ours take turns; to reserve the name with an empty file would leave
    # that, after a power cut, where a database is looked for.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        with suppress(OSError):  # nor locks
            fcntl.flock(folder, fcntl.LOCK_EX)
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        temporary.rename(path)
    finally:
        os.close(folder)


def sync(path: Path) -> None:
    """Hand a file or the names in a folder to the disk. OSError.

    No connection of this process may be open on the file, since to close a descriptor
    drops all locks of the process (sqlite.org/howtocorrupt.html, 2.2).
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as exc:
        if exc.errno not in (errno.EINVAL, errno.ENOTSUP):  # not for a folder there
            raise
    finally:
        os.close(descriptor)
