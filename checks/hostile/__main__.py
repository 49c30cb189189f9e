"""Send what no honest client sends, and look at every answer.

    python -m checks.hostile [--group WORD]

Each case goes over a raw socket to a server on a fresh SQLite file. It is right when
the status is the contract's; an error is a well-formed problem; the marker in the
input comes back in no error and stands in no log; nothing was traced back; the number
of rows changed only by what a 2xx answer says; nothing was written but what a header
`Change` tells of; memory stays flat and the answer comes
soon; text that was taken is read again as it was sent; the next honest request works.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from checks.hostile.case import Case
from checks.hostile.floods import FLOODS
from checks.hostile.history import BY_READERS, erasures, feeds, undos, undos_by_readers
from checks.hostile.protocol import framings, header_fields, targets
from checks.hostile.trial import Trial
from checks.hostile.values import ids_in_bodies, jsons, paths, quantities, texts, types
from checks.support.report import print_breaches, print_table
from checks.support.server_process import Reply, serving

GROUPS: dict[str, Callable[[], Iterator[Case]]] = {
    "1 quantity": quantities,
    "2 text": texts,
    "3 JSON": jsons,
    "4 types and codings": types,
    "5 framing": framings,
    "6 paths, queries, methods": paths,
    "7 ids in bodies": ids_in_bodies,
    "8 header fields": header_fields,
    "9 targets": targets,
}
HISTORY: dict[str, Callable[[Trial], Iterator[Case]]] = {
    "10 the feed": feeds,
    "11 undo": undos,
    "12 erasure": erasures,
}
"""Groups whose cases are about what was written for them."""


def run(folder: Path, word: str) -> list[str]:
    """Try every case of the groups that hold `word` in their name; return breaches."""
    rows: list[tuple[object, ...]] = []
    breaches: list[str] = []
    with serving(folder) as server:
        trial = Trial(server)
        with closing(trial.database):
            groups = {name: GROUPS[name]() for name in GROUPS if word in name}
            groups |= {name: HISTORY[name](trial) for name in HISTORY if word in name}
            for group, cases in groups.items():
                tried = wrong = 0
                for case in cases:
                    reply, faults = trial.faults_of(case)
                    tried, wrong = tried + 1, wrong + bool(faults)
                    if faults:
                        breaches.append(f"{group}: {shown(case, reply)}: {faults}")
                rows.append((group, tried, tried - wrong, wrong))
            others = FLOODS | {
                "15 undo by readers": (len(BY_READERS), undos_by_readers)
            }
            for name, (size, flood) in others.items():
                if word in name:
                    faults = flood(server)
                    breaches += [f"{name}: {fault}" for fault in faults]
                    rows.append((name, size, "", len(faults)))
        server.stop()
        breaches += [f"at the end: {fault}" for fault in trial.log_faults()]
    print_table(("hostile input", "cases", "right", "wrong"), rows)
    print(f"\nmemory at most {trial.peak:.1f} MiB above what it was before a case")
    return breaches


def shown(case: Case, reply: Reply) -> str:
    """Return the beginnings of what was sent and of what came."""
    sent = case.request if isinstance(case.request, bytes) else b"an endless body"
    return f"{sent[:300]!r} got {reply.status} {reply.body[:300]!r}, not {case.right}"


def main() -> int:
    """Run the check; 1 on a breach."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--group", default="", help="only groups with this in the name")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        breaches = run(Path(folder), options.group)
    return print_breaches(breaches)


if __name__ == "__main__":
    sys.exit(main())
