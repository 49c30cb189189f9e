"""Cut the power of a recorded server at any moment, and look what its disk holds.

    python -m checks.powercut [--long] [--scenario WORD]

A libc in between (record.c) writes down every call by which servers, backups and other
programs change files or answer clients. From that, the disks are made that a power cut
at some moment may leave: what an fsync has covered is there, of the rest anything. A
server is started on each, and its content compared with what clients had been told,
and with what each commit held. The check proves itself: with one thing taken away that
keeps a promise (changed_server.py), it must find what is lost.
"""

import argparse
import multiprocessing
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from typing import NamedTuple

from checks.powercut.judge import Verdict
from checks.powercut.recording import NotRunError, library
from checks.powercut.scenarios import SCENARIOS, Size, try_scenario
from checks.support.report import print_table

SHORT = Size(8, 14, 90, 10)
LONG = Size(16, 40, 1000, 10)
PROOF = Size(4, 8, 60, 6)


class Proof(NamedTuple):
    """A change of the server that the check must find, and where."""

    change: str
    scenario: str


PROOFS = (
    Proof("normal", "load, backups, SIGKILL, restart"),
    Proof("publish_unsynced", "load, backups, SIGKILL, restart"),
    Proof("keep_drafts", "load, backups, SIGKILL, restart"),
    Proof("header_first", "load, backups, SIGKILL, restart"),
    Proof("no_sync_at_start", "a stopped server's file put in place by cp"),
    Proof("no_sync_at_start", "a retry after SIGKILL, the file held"),
    Proof("no_sync_at_start", "a retry after SIGKILL, workers replaced"),
    Proof("lying_disk", "load, backups, SIGKILL, restart"),
    Proof("copy_once", "an fsync of the database fails"),
    Proof("reserve_name", "no hard links"),
)


def row_of(name: str, verdict: Verdict) -> Sequence[object]:
    """Return the row of a scenario in the table."""
    found = sum(verdict.faults.values())
    return (
        name,
        f"{verdict.told:,}",
        f"{verdict.compared:,}",
        f"{verdict.commits:,}",
        f"{verdict.cuts:,}",
        f"{verdict.states:,}",
        f"{verdict.different:,}",
        found,
    )


def proof_row(proof: Proof, verdict: Verdict) -> Sequence[object]:
    """Return the row of a proof in its table."""
    found = ", ".join(f"{n} x {what}" for what, n in verdict.faults.items())
    return *proof, f"{verdict.states:,}", found or "nothing"


def main() -> int:
    """Run the check; 1 on a violation, or where it does not find one that is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--long", action="store_true", help="many more disks")
    parser.add_argument("--scenario", default="", help="only those with this name")
    parser.add_argument("--cuts", type=int, help="how many for each scenario")
    options = parser.parse_args()
    began, size = time.monotonic(), LONG if options.long else SHORT
    size = size._replace(cuts=options.cuts or size.cuts)
    try:
        library()
    except NotRunError as exc:
        print(f"not run: {exc}")
        return 0
    names = [name for name in SCENARIOS if options.scenario in name]
    proofs = [proof for proof in PROOFS if options.scenario in proof.scenario]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, context, max_tasks_per_child=1) as pool:
        verdicts = {name: pool.submit(try_scenario, name, (), size) for name in names}
        proven = {
            proof: pool.submit(try_scenario, proof.scenario, (proof.change,), PROOF)
            for proof in proofs
        }
    failed = report(verdicts, proven)
    print(f"\n{time.monotonic() - began:.0f} s")
    return 1 if failed else 0


def report(
    verdicts: dict[str, Future[Verdict]], proven: dict[Proof, Future[Verdict]]
) -> bool:
    """Print both tables and the violations; return whether the check failed."""
    found = {name: future.result() for name, future in verdicts.items()}
    columns = ("scenario", "told", "compared", "commits", "cuts", "disks", "different")
    rows = [row_of(name, verdict) for name, verdict in found.items()]
    total = Verdict()
    for verdict in found.values():
        total.add_up(verdict)
    print_table((*columns, "violations"), [*rows, row_of("all", total)])
    actions = (f"{count:,} {name}" for name, count in sorted(total.actions.items()))
    print(f"\nchanges of the history in them: {', '.join(actions)}\n")
    changed = {proof: future.result() for proof, future in proven.items()}
    headings = ("taken away", "scenario", "disks", "found")
    print_table(headings, [proof_row(*pair) for pair in changed.items()])
    for example in total.examples:
        print(f"\nviolation: {example}")
    missed = [proof for proof, verdict in changed.items() if not verdict.faults]
    for proof in missed:
        print(f"\nnot found: {proof.change} in {proof.scenario!r}")
    if total.told and not total.compared:
        print("\nno answer was compared with what is stored")
    return bool(total.examples or missed or (total.told and not total.compared))


if __name__ == "__main__":
    sys.exit(main())
