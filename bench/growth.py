"""The sections of the benchmark that measure a large database beside a small one."""

import subprocess
import sys
import time
from contextlib import ExitStack
from statistics import median

from bench.peers.loads import LOADS
from bench.peers.programs import OURS
from bench.peers.targets import EACH, Target, launch, start, wait_idle
from bench.sections import Run, count_lost, interleave, print_loads
from checks.support.report import print_table

SMALL, LARGE, HUGE = 10_000, 3_000_000, 10_000_000
"""How many purchases a database has: a small one, a large one, the largest."""


def growth(run: Run) -> None:
    """Compare lists and adds at random customers of a large and of a small database."""
    loads = {f"{case}, random": load for case, load in LOADS.items()}
    targets = []
    with ExitStack() as stack:
        for purchases in (LARGE, SMALL):
            customers = purchases // EACH
            server = start(stack, run.pinned, OURS, [EACH] * customers)
            wait_idle(server)
            half, name = customers // 2, f"{purchases:,} purchases"
            targets.append(Target(name, server, half, half, before=EACH * half))
        run.note(
            "Growth: both servers were up at once, on one core, and took turns of"
            f" {run.seconds} s, each round in another order; before each turn both came"
            " to rest, with their indexes filled in. Half of the customers are listed,"
            " the others added to, drawn at random."
        )
        interleave(run, targets, loads)
        count_lost(run, targets)
        for target in targets:
            run.others[f"{target.name}: added meanwhile"] = target.stored()
    names = [target.name for target in targets]
    print_loads(run, loads, names)
    for case in loads:
        seen = run.ratio(case, "rate", *names)
        run.goal(f"{case}, requests/s: {' / '.join(names)}", 0.9, seen, least=True)


def start_up(run: Run) -> None:
    """Measure the time to the first answer, with nothing and with much to serve."""
    answered, imported, idle, loaded, served = [], [], [], [], []
    rounds = max(run.rounds, 3)
    for _ in range(rounds):
        began = time.monotonic()
        with ExitStack() as stack:
            server = start(stack, run.unpinned)
            answered.append(time.monotonic() - began)
            time.sleep(1)
            idle.append(server.memory())
        began = time.monotonic()
        command = ("taskset", "-c", run.unpinned.cores, sys.executable, "-c")
        subprocess.run([*command, "import aiohttp.web"], check=True)
        imported.append(time.monotonic() - began)
    with ExitStack() as stack:
        server = start(stack, run.unpinned, OURS, [EACH] * (HUGE // EACH))
        wait_idle(server)
        for _ in range(rounds):
            server.stop()
            began = time.monotonic()
            launch(server)
            loaded.append(time.monotonic() - began)
            time.sleep(1)
            served.append(server.memory())
    run.others["import aiohttp.web: seconds"] = median(imported)
    run.goal("start to first answer: seconds", 0.5, median(answered))
    run.goal(f"start on {HUGE:,} purchases: seconds", 0.5, median(loaded))
    run.goal("idle: MiB", 64, median(idle))
    run.goal(f"idle on {HUGE:,} purchases: MiB", 64, median(served))
    columns = (
        *("start to first answer, s", f"on {HUGE:,} purchases, s"),
        *("import aiohttp.web alone, s", "idle, MiB", f"on {HUGE:,}, MiB"),
    )
    medians = map(median, (answered, loaded, imported, idle, served))
    print_table(columns, [[f"{figure:.3g}" for figure in medians]])
    print()
