"""Cuts the power of a recording at many places, and judges what is left."""

import hashlib
import math
import random
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from checks.powercut.disk import Disk, Keep, Model, Plan
from checks.powercut.ledger import (
    DATABASE,
    Content,
    Response,
    Streams,
    compare,
    faults_of,
    read_content,
    recover,
    write_files,
)
from checks.powercut.recording import Kind, RecordingError, read_calls
from storage.sqlite_connection import driver

MEMORY = Path("/dev/shm")  # noqa: S108 - where to try disks, if there is one
SECTORS = (512, 4096)
MARK = "mark "
"""What the path of a record of the check itself begins with."""
COMMIT_FRAME = 24
"""The bytes before a page in the WAL; those from 4 to 8 are 0 but in the last of a
commit (sqlite.org/fileformat2.html#walformat)."""
COUNT_ACTIONS = """
SELECT action, count(DISTINCT coalesce(change, id)) FROM history GROUP BY action"""


class Start(NamedTuple):
    """The files of a folder, by their names, with their inodes and contents."""

    files: Mapping[str, tuple[int, bytes]]

    @classmethod
    def of(cls, root: Path) -> "Start":
        """Return what is in a folder now."""
        files = {
            str(path): (path.stat().st_ino, path.read_bytes())
            for path in root.resolve().rglob("*")
            if path.is_file()
        }
        return cls(files)


@dataclass
class Verdict:
    """What the cuts of a recording came to."""

    cuts: int = 0
    states: int = 0
    different: int = 0
    commits: int = 0
    told: int = 0
    compared: int = 0
    actions: Counter[str] = field(default_factory=Counter)
    """The changes in the history at the end, by what they did."""
    faults: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def add_up(self, other: "Verdict") -> None:
        """Add what another recording came to."""
        self.cuts += other.cuts
        self.states += other.states
        self.different += other.different
        self.commits += other.commits
        self.told += other.told
        self.compared += other.compared
        self.actions.update(other.actions)
        self.faults.update(other.faults)
        self.examples += other.examples

    def add(self, kind: str, example: str) -> None:
        """Note a violation."""
        self.faults[kind] += 1
        if len(self.examples) < 20:
            self.examples.append(f"{kind}: {example}")


class Judge:
    """A recording, the commits in it, and what clients were told."""

    def __init__(
        self, root: Path, start: Start, log: Path, verdict: Verdict, floor: int = 0
    ) -> None:
        """Read a log; `floor` is the row of the history that was told before it."""
        self.root, self.start, self.floor = root.resolve(), start, floor
        self.verdict = verdict
        self.syncs = True
        """Whether the disk does what an fsync asks for."""
        self.calls = read_calls(log)
        streams = Streams(self.calls)
        self.told = streams.told()
        self.responses = sorted(streams.responses())
        self.marks = [
            (call.began, call.path.removeprefix(MARK))
            for call in self.calls
            if call.path.startswith(MARK)
        ]
        verdict.told += len(self.told)
        self.newest: dict[bytes, int] = {}
        """The last row of the history in each content that a commit made."""
        memory = MEMORY if MEMORY.is_dir() else None
        self._folder = TemporaryDirectory(dir=memory)
        self.folder = Path(self._folder.name)
        self.seen: dict[bytes, tuple[Content | None, list[str]]] = {}

    def disk(self) -> Disk:
        """Return the disk before the recording, and all that happens to it."""
        disk = Disk(self.root, self.start.files)
        disk.read(
            call for call in self.calls if call.kind is not Kind.SYNC or self.syncs
        )
        return disk

    def check_model(self) -> None:
        """Compare the files there are with those of the model. RecordingError."""
        plan = Plan(Model.STRICT, Keep.ALL, 512, 0)
        [files] = self.disk().cut(self.calls[-1].began + 2, [plan])
        for name, (_, content) in Start.of(self.root).files.items():
            if not name.endswith("-shm") and files.get(name) != content:
                raise RecordingError(f"{name} is not what the calls have made")

    def read_commits(self) -> None:
        """Read what the database held after each commit; compare it with answers."""
        plan = [Plan(Model.STRICT, Keep.ALL, 512, 0)]
        disk, newest = self.disk(), 0
        answers, files = deque(self.responses), dict[str, bytes]()
        for place, failed in self._commits():
            self._compare(files, answers, place)
            [files] = disk.cut(place, plan)
            content, faults = self._recover(files)
            if content is None:
                self.verdict.add("before any cut", f"{faults} at {place}")
                continue
            self.verdict.commits += content.digest not in self.newest
            # What a failed commit gave a row, the next one gives another.
            newest = newest if failed else content.newest
            self.newest[content.digest] = newest
        self._compare(files, answers, self.calls[-1].began + 1)
        write_files(self.folder / "disk", str(self.root), files)
        with closing(driver.connect(self.folder / "disk" / DATABASE)) as connection:
            self.verdict.actions.update(dict(connection.execute(COUNT_ACTIONS)))

    def _compare(
        self, files: Mapping[str, bytes], answers: deque[Response], place: int
    ) -> None:
        """Compare the answers that were sent before a place with what was stored."""
        here = []
        while answers and answers[0].place < place:
            here.append(answers.popleft())
        if not here:
            return
        write_files(self.folder / "disk", str(self.root), files)
        with closing(driver.connect(self.folder / "disk" / DATABASE)) as connection:
            compared, faults = compare(connection, here)
        self.verdict.compared += compared
        for fault in faults:
            self.verdict.add("answer differs", fault)

    def _commits(self) -> Iterator[tuple[int, bool]]:
        """Yield the places at which the database holds another commit, or may.

        Say, too, whether the fsync of it failed.
        """
        yield -1, False
        is_last = False
        for number, call in enumerate(self.calls):
            if call.kind is Kind.WRITE and call.path.endswith("-wal"):
                if len(call.data) == COMMIT_FRAME:
                    is_last = call.data[4:8] != bytes(4)
                elif is_last and call.ended < math.inf:
                    yield int(call.ended), self._is_unsynced(number)
            elif call.kind is Kind.SYNC and call.path.endswith("-wal"):
                yield call.began, call.result is not None and call.result < 0
            elif call.kind in (Kind.RENAME, Kind.LINK) or call.path.startswith(MARK):
                yield call.began + 1, False

    def _is_unsynced(self, number: int) -> bool:
        path = self.calls[number].path
        syncs = (
            call
            for call in self.calls[number:]
            if call.kind is Kind.SYNC and call.path == path
        )
        sync = next(syncs, None)
        return sync is not None and sync.result is not None and sync.result < 0

    def _recover(self, files: Mapping[str, bytes]) -> tuple[Content | None, list[str]]:
        key = hashlib.sha256()
        for name, content in files.items():
            key.update(f"{name} {len(content)} ".encode() + content)
        found = self.seen.get(key.digest())
        if found is None:
            folder = self.folder / "disk"
            write_files(folder, str(self.root), files)
            found = recover(folder)
            found[1].extend(self._left(folder))
            self.seen[key.digest()] = found
        return found

    def _left(self, folder: Path) -> Iterator[str]:
        """Yield what is wrong with the files beside the database."""
        for path in folder.iterdir():
            if path.name.startswith("."):
                yield f"left behind: {path.name[:14]}"
            elif path.name.startswith("copy"):
                try:
                    with closing(driver.connect(path)) as connection:
                        yield from faults_of(connection)
                        if read_content(connection).digest not in self.newest:
                            yield "a copy of no commit"
                except driver.Error as exc:
                    yield f"a copy that is none: {exc}"

    def try_cuts(self, places: Iterable[int], plans: int, seed: int) -> None:
        """Cut the power at places of the log, and look at some disks of each."""
        chance = random.Random(seed)  # noqa: S311 - the same cuts again
        disk = self.disk()
        for place in sorted(places):
            self.verdict.cuts += 1
            some, required = [*_plans(plans, chance)], self.required(place)
            for plan, files in zip(some, disk.cut(place, some), strict=True):
                shm = _index(plan)
                if shm is not None:
                    files[f"{self.root}/{DATABASE}-shm"] = shm
                self.verdict.states += 1
                self._judge(place, required, plan, files)
        self.verdict.different += len(self.seen)

    def _judge(
        self, place: int, required: int, plan: Plan, files: Mapping[str, bytes]
    ) -> None:
        content, faults = self._recover(files)
        where = f"cut at {place}, {plan.model.value}, {plan.keep.value}"
        for fault in faults:
            self.verdict.add("damaged or refused", f"{fault}; {where}")
        for name in self._expected(place):
            if f"{self.root}/{name}" not in files:
                self.verdict.add("lost", f"{name}; {where}")
        if content is None:
            return
        if content.digest not in self.newest:
            self.verdict.add("not the content of a commit", where)
        elif self.newest[content.digest] < required:
            text = f"row {required} was told, {content.newest} is there; {where}"
            self.verdict.add("lost", text)

    def required(self, place: int) -> int:
        """Return the last row of the history that a client knows of at a place."""
        told = (told.row for told in self.told if told.place <= place)
        return max(told, default=self.floor)

    def places(self, begin: int, count: int) -> list[int]:
        """Return places to cut at: at random, while page 1 is written, at the end."""
        end = self.calls[-1].began + 2
        some = random.sample(range(begin, end), min(count, end - begin))
        first = [
            call.began
            for call in self.calls
            if call.kind is Kind.WRITE
            and call.offset == 0
            and call.began >= begin
            and call.path == f"{self.root}/{DATABASE}"
        ]
        some += random.sample(first, min(count // 4, len(first)))
        return sorted({*some, *range(max(begin, end - count // 8), end + 1)})

    def one_disk(self, place: int, seed: int) -> dict[str, bytes]:
        """Return the files of one disk after a cut."""
        [files] = self.disk().cut(place, [Plan(Model.JOURNAL, Keep.SUBSET, 512, seed)])
        return files

    def _expected(self, place: int) -> Iterator[str]:
        return (name for began, name in self.marks if began <= place and name)

    def close(self) -> None:
        """Remove the disks that were tried."""
        self._folder.cleanup()


def _plans(count: int, chance: random.Random) -> Iterator[Plan]:
    for keep in islice(cycle(Keep), count):
        model, sector = chance.choice([*Model]), chance.choice(SECTORS)
        yield Plan(model, keep, sector, chance.getrandbits(32))


def _index(plan: Plan) -> bytes | None:
    """Return what is left of the index of the WAL: nothing, zeros or garbage."""
    match plan.seed % 3:
        case 0:
            return None
        case 1:
            return bytes(32768)
        case _:
            return random.Random(plan.seed).randbytes(32768)  # noqa: S311 - the same again
