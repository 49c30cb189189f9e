"""A model of what a disk may hold after a power cut, from the calls before it.

What an fsync that began after a call ended has covered is there. Of the rest, anything
may be: all, nothing, a first part, a random part; and a write may be torn, with
garbage in it. Names are told apart from what the files hold. In the strict model a
name is there when its folder was synced; in that of a journaling file system names
change in order, and any fsync that succeeds takes all of them along.

An fsync that failed covers nothing, and no later one covers what was written before
it: the system may have dropped those pages (man 2 fsync; LWN 752063).
"""

import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from checks.powercut.recording import Call, Kind, RecordingError


class Model(Enum):
    """How a file system keeps names."""

    STRICT = "strict"
    JOURNAL = "as ext4"


class Keep(Enum):
    """What is kept of that which was not synced."""

    NOTHING = "nothing"
    ALL = "all"
    PREFIX = "a prefix"
    SUBSET = "a subset"
    TORN = "a prefix, the last write torn"
    GARBAGE = "a subset, a write torn with garbage"


class Plan(NamedTuple):
    """How one disk is made from a cut."""

    model: Model
    keep: Keep
    sector: int
    seed: int


class File:
    """A file, whatever its names are."""

    def __init__(self, content: bytes = b"") -> None:
        self.durable = bytearray(content)


@dataclass
class Change:
    """A change of a file, or of the names in folders."""

    began: int
    ended: float
    offset: int = 0
    data: bytes | None = None
    """None truncates the file to `offset`."""
    covered: float = math.inf
    """The place in the log from which on it is on disk."""
    journaled: float = math.inf
    """The same for a name in a file system that keeps a journal."""
    beyond: bool = False
    """Whether a failed fsync may have dropped it."""
    names: Mapping[str, File | None] = field(default_factory=dict)
    """The new file of each name, None for no longer any."""
    folders: frozenset[str] = frozenset()


class Disk:
    """The changes of a recording, and the disks that a power cut may leave."""

    def __init__(self, root: Path, before: Mapping[str, tuple[int, bytes]]) -> None:
        """Begin with files that are on disk: name to inode and content."""
        self.root = str(root.resolve())
        self.folders = {self.root}
        self.names: dict[str, File] = {}
        self.files: dict[int, File] = {}
        self.contents: dict[File, list[Change]] = {}
        self.unsynced: dict[File, list[Change]] = {}
        """Of these, what was not on disk when the last fsync began."""
        self.renames: list[Change] = []
        for name, (inode, content) in before.items():
            self.names[name] = self.files[inode] = File(content)
        self.first = dict(self.names)

    def read(self, calls: Iterable[Call]) -> None:
        """Take calls in. RecordingError for one that is not known."""
        for call in calls:
            if call.kind is Kind.SYNC:
                self._cover(call)
            elif call.result is None or call.result >= 0:
                self._take(call)

    def _take(self, call: Call) -> None:
        match call.kind:
            case Kind.OPEN if not call.existed:
                file = self.names.get(call.path)
                # Another process may have made it since this one looked.
                if file is None or file is not self.files.get(call.file):
                    file = self.files[call.file] = File()
                    self._rename(call, {call.path: file})
            case Kind.OPEN if call.offset:  # O_TRUNC
                self._change(call, 0, None)
            case Kind.WRITE:
                written = len(call.data) if call.result is None else call.result
                self._change(call, call.offset, call.data[:written])
            case Kind.TRUNCATE:
                self._change(call, call.offset, None)
            case Kind.RENAME:
                moved = {call.other: self.names[call.path], call.path: None}
                self._rename(call, moved)
            case Kind.LINK:
                self._rename(call, {call.other: self.names[call.path]})
            case Kind.UNLINK:
                self._rename(call, {call.path: None})
            case Kind.MKDIR:
                self.folders.add(call.path)

    def _change(self, call: Call, offset: int, data: bytes | None) -> None:
        if call.path.endswith("-shm"):
            return  # what it holds is never trusted after a start
        file = self.files.get(call.file)
        if file is None:
            raise RecordingError(f"a write to {call.path}, which nobody made")
        change = Change(call.began, call.ended, offset, data)
        self.contents.setdefault(file, []).append(change)
        self.unsynced.setdefault(file, []).append(change)

    def _rename(self, call: Call, names: Mapping[str, File | None]) -> None:
        for name, file in names.items():
            if file is None:
                self.names.pop(name, None)
            else:
                self.names[name] = file
        new = [name for name, file in names.items() if file] or [*names]
        folders = frozenset(str(Path(name).parent) for name in new)
        self.renames.append(
            Change(call.began, call.ended, names=names, folders=folders)
        )

    def _cover(self, sync: Call) -> None:
        """Note what an fsync has taken to the disk, or lost."""
        if sync.result is None:
            return  # its process was killed, which drops nothing from the cache
        failed, place = sync.result < 0, sync.ended
        if sync.path in self.folders:
            for change in self.renames:
                if change.ended < sync.began and sync.path in change.folders:
                    _settle(change, place, failed)
        else:
            file = self.files[sync.file]
            waiting = self.unsynced.get(file, [])
            for change in waiting:
                if change.ended < sync.began:
                    _settle(change, place, failed)
            # An fsync that began later may end earlier.
            self.unsynced[file] = [
                change for change in waiting if change.covered > sync.began
            ]
        if not failed:
            for change in self.renames:
                if change.ended < sync.began:
                    change.journaled = min(change.journaled, place)

    def cut(self, place: int, plans: Sequence[Plan]) -> Iterator[dict[str, bytes]]:
        """Yield the files after a cut at a place in the log, for each plan.

        The places of one disk must come in their order.
        """
        open_changes = {
            file: self._advance(file, changes, place)
            for file, changes in self.contents.items()
        }
        for plan in plans:
            chance = random.Random(plan.seed)  # noqa: S311 - the same disk again
            names = self._names(place, plan, chance)
            yield {
                name: _content(file, open_changes.get(file, []), plan, chance)
                for name, file in sorted(names.items())
            }

    def _advance(self, file: File, changes: list[Change], place: int) -> list[Change]:
        """Apply what is on disk, for good; return what is not but has begun."""
        later: list[Change] = []
        pending: list[Change] = []
        for number, change in enumerate(changes):
            if change.began > place:
                later = changes[number:]
                break
            if change.covered > place:
                pending.append(change)
                continue
            _apply(file.durable, change.offset, change.data)
            pending = [part for old in pending for part in _remaining(old, change)]
        changes[:] = pending + later
        return pending

    def _names(self, place: int, plan: Plan, chance: random.Random) -> dict[str, File]:
        names = dict(self.first)
        pending: list[Change] = []
        for change in self.renames:
            on_disk = change.covered
            if plan.model is Model.JOURNAL:
                on_disk = min(on_disk, change.journaled)
            if on_disk <= place:
                _apply_names(names, change)
            elif change.began <= place:
                pending.append(change)
        in_order = plan.model is Model.JOURNAL
        for change in _chosen(pending, plan.keep, in_order, chance):
            _apply_names(names, change)
        return names


def _remaining(old: Change, new: Change) -> Iterator[Change]:
    """Yield what a newer change, which is on disk, leaves of an older one."""
    if old.data is None:
        return
    end = old.offset + len(old.data)
    stop = math.inf if new.data is None else new.offset + len(new.data)
    if old.offset < new.offset:
        yield replace(old, data=old.data[: new.offset - old.offset])
    if end > stop:
        start = max(old.offset, int(stop))
        yield replace(old, offset=start, data=old.data[start - old.offset :])


def _settle(change: Change, place: float, failed: bool) -> None:
    if failed:
        change.beyond = change.beyond or change.covered == math.inf
    elif not change.beyond:
        change.covered = min(change.covered, place)


def _apply_names(names: dict[str, File], change: Change) -> None:
    for name, file in change.names.items():
        if file is None:
            names.pop(name, None)
        else:
            names[name] = file


def _apply(content: bytearray, offset: int, data: bytes | None) -> None:
    size = len(content)
    if data is None:
        del content[offset:]
        content.extend(bytes(offset - len(content)))
        return
    if offset > size:
        content.extend(bytes(offset - size))
    content[offset : offset + len(data)] = data


def _chosen(
    pending: list[Change], keep: Keep, in_order: bool, chance: random.Random
) -> list[Change]:
    if keep is Keep.ALL:
        return pending
    if keep is Keep.NOTHING:
        return []
    if in_order or keep in (Keep.PREFIX, Keep.TORN):
        return pending[: chance.randint(0, len(pending))]
    return [change for change in pending if chance.random() < 0.5]


def _content(
    file: File, pending: list[Change], plan: Plan, chance: random.Random
) -> bytes:
    content = bytearray(file.durable)
    chosen = _chosen(pending, plan.keep, False, chance)
    torn = None
    if chosen and plan.keep is Keep.TORN:
        torn = chosen[-1]
    elif pending and plan.keep is Keep.GARBAGE:  # most often the one under way
        torn = pending[-1] if chance.random() < 0.7 else chance.choice(pending)
        chosen = [change for change in pending if change in chosen or change is torn]
    for change in chosen:
        if change is torn and change.data:
            garbage = plan.keep is Keep.GARBAGE
            _tear(content, change, plan.sector, garbage, chance)
        else:
            _apply(content, change.offset, change.data)
    return bytes(content)


def _tear(
    content: bytearray,
    change: Change,
    sector: int,
    garbage: bool,
    chance: random.Random,
) -> None:
    """Write some sectors of a write and not others."""
    assert change.data is not None
    start, end = change.offset, change.offset + len(change.data)
    while start < end:
        stop = min(end, start - start % sector + sector)
        piece = change.data[start - change.offset : stop - change.offset]
        kind = chance.random()
        if garbage and kind < 0.5:
            _apply(content, start, chance.randbytes(len(piece)))
        elif kind < 0.75:
            _apply(content, start, piece)
        start = stop
