"""Kills the server and Litestream, loses the database, restores it, and looks."""

import asyncio
import shutil
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

from checks.replica.beside import EXPECTED, copy_beside
from checks.replica.ledger import Ledger, LedgerClient, Loss
from checks.replica.pair import Pair
from checks.support.server_process import call
from checks.support.write_log import CHANCE, writing

PROMISE = 2.0
"""How old a lost write may be, in seconds before the kill: 1.25 s by the intervals of
docs/litestream.yml, and what the rest takes on a busy machine."""
LOAD_SECONDS = (0.5, 4.0)
"""The earliest and the latest moment of a kill, from the start of the load."""
LOADS = ((24, 0.0), (24, 0.02), (2, 0.2))
"""How many clients write, and how long each waits after each answer; seconds."""


@dataclass
class Figures:
    """What all kills together came to."""

    losses: list[Loss] = field(default_factory=list)
    """Those of kills under load."""
    ages: list[float] = field(default_factory=list)
    """How old the oldest lost write was, for each kill under load; 0 where none was."""
    quiet: int = 0
    """How many kills came after a pause."""
    lost_in_quiet: int = 0
    acknowledged: int = 0
    restores: list[float] = field(default_factory=list)
    """How long each took, in seconds."""
    copied: list[float] = field(default_factory=list)
    """How long after a start the whole copy was in the replica, in seconds."""
    breaches: list[str] = field(default_factory=list)


async def load(pair: Pair, ledger: Ledger, clients: int, pause: float) -> None:
    """Let clients write for a while, and wait for their last answers."""
    writers = writing(pair.server.url, ledger, clients, pause, True, LedgerClient)
    async with writers:
        await asyncio.sleep(CHANCE.uniform(*LOAD_SECONDS))


async def load_and_kill(
    pair: Pair, ledger: Ledger, clients: int, pause: float
) -> float:
    """Kill both while clients write; return when, on the monotonic clock."""
    writers = writing(pair.server.url, ledger, clients, pause, True, LedgerClient)
    async with writers:
        await asyncio.sleep(CHANCE.uniform(*LOAD_SECONDS))
        return pair.kill()


def restore(pair: Pair, deleted: bool, figures: Figures, moment: str = "") -> None:
    """Lose the database, or let the commands move it away; restore it."""
    if deleted:
        pair.lose_database()
    began = time.monotonic()
    pair.restore(moment)
    figures.restores.append(time.monotonic() - began)
    shutil.rmtree(pair.data / "replaced")


def judge(pair: Pair, ledger: Ledger, figures: Figures, when: str) -> Loss:
    """Hold the restored file against the ledger."""
    figures.acknowledged += len(ledger.acknowledged)
    loss, found = ledger.hold(pair.database)
    figures.breaches += [f"{when}: {breach}" for breach in found.breaches()]
    return loss


def serve(pair: Pair, figures: Figures, when: str) -> None:
    """Start both, either of them first, and wait for the whole copy that is made."""
    last = pair.newest()
    if CHANCE.random() < 0.5:
        pair.start_litestream()
        pair.server.start(ready_within=30.0)
    else:
        pair.server.start(ready_within=30.0)
        pair.start_litestream()
    figures.copied.append(pair.wait_for_copy(last))
    reply = call(pair.server, "GET", "/api/v1/customers?limit=1")
    if reply.status != 200:
        figures.breaches.append(f"{when}: {reply.status} from the restored server")


async def one_kill(pair: Pair, ledger: Ledger, figures: Figures, number: int) -> None:
    """Load, kill, lose, restore and judge; then let both go on."""
    when, quiet = f"kill {number}", number % 2 == 0
    clients, wait = CHANCE.choice(LOADS)
    if quiet:
        await load(pair, ledger, clients, wait)
        await asyncio.sleep(PROMISE)
        killed = pair.kill()
    else:
        killed = await load_and_kill(pair, ledger, clients, wait)
    restore(pair, CHANCE.random() < 0.7, figures)
    loss = judge(pair, ledger, figures, when)
    age = 0.0 if loss.oldest is None else killed - loss.oldest
    if quiet:
        figures.quiet += 1
        figures.lost_in_quiet += loss.writes
        if loss.writes:
            figures.breaches.append(f"{when}: {loss.writes} lost though it was quiet")
    else:
        figures.losses.append(loss)
        figures.ages.append(age)
    if age > PROMISE:
        figures.breaches.append(f"{when}: a write {age:.2f} s old is lost")
    serve(pair, figures, when)


async def go_back(pair: Pair, ledger: Ledger, figures: Figures) -> None:
    """Restore an older moment, and let the replica go on from it."""
    await load(pair, ledger, *LOADS[0])
    await asyncio.sleep(PROMISE)
    wanted = max(ledger.acknowledged)
    moment = datetime.now(UTC).isoformat(timespec="milliseconds")[:-6] + "Z"
    await asyncio.sleep(PROMISE)
    await load(pair, ledger, *LOADS[0])
    later = sum(change > wanted for change in ledger.acknowledged)
    await asyncio.sleep(PROMISE)
    pair.kill()
    restore(pair, False, figures, moment)
    loss = judge(pair, ledger, figures, "an older moment")
    if loss.writes != later:
        what = f"{loss.writes} writes gone, not the {later} after {moment}"
        figures.breaches.append(f"an older moment: {what}")
    serve(pair, figures, "an older moment")


async def kill(pair: Pair, kills: int) -> Figures:
    """Kill both again and again, and return the figures. BreachError."""
    figures, ledger = Figures(), Ledger()
    try:
        serve(pair, figures, "the first start")
        for number in range(1, kills + 1):
            if number == kills:
                await go_back(pair, ledger, figures)
            await one_kill(pair, ledger, figures, number)
        await load(pair, ledger, *LOADS[0])
        figures.breaches += copy_beside(pair)
        pair.look()
    finally:
        pair.kill()
    figures.breaches += ledger.wrong
    figures.breaches += [
        f"{count} answers of {status}"
        for status, count in ledger.statuses().items()
        if status not in {0, *EXPECTED}
    ]
    return figures
