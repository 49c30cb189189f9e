"""The section of the benchmark that measures PostgreSQL beside SQLite."""

from contextlib import ExitStack

from bench.peers.loads import LOADS
from bench.peers.targets import start_engines
from bench.sections import Run, count_lost, interleave, print_loads


def postgresql(run: Run) -> None:
    """Measure SQLite and PostgreSQL side by side, with one worker and with two.

    And PostgreSQL with two servers, which share the load.
    """
    loads = {f"{case}, unpinned": load for case, load in LOADS.items()}
    with ExitStack() as stack:
        targets = start_engines(stack, run.unpinned)
        interleave(run, targets, loads, run.unpinned.cores)
        count_lost(run, targets)
        assert targets[1].sql
        settings = ("fsync", "synchronous_commit")
        seen = [f"{name} {targets[1].sql(f'SHOW {name}').strip()}" for name in settings]
    print(
        "Unpinned: all of the server's workers, PostgreSQL and the load share cores"
        f" {run.unpinned.cores}. CPU is the server's, without PostgreSQL's."
        f" PostgreSQL: {', '.join(seen)}.\n"
    )
    print_loads(run, loads, [target.name for target in targets])
