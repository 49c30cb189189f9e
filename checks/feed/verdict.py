"""Hold what readers saw of the feed and of lists against what writers were told."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import aiohttp

from checks.feed.lists import ListFollower, Snapshot, SnapshotReader, content_of
from checks.feed.writers import World
from checks.support.feed_model import FeedRow, Json, Replay, Thing, agree
from checks.support.feed_reader import FeedReader, read_all


@dataclass
class Verdict:
    """Figures of one engine, and the promises that it broke."""

    figures: dict[str, object] = field(default_factory=dict)
    breaches: list[str] = field(default_factory=list)

    def count(self, what: str, faults: Iterable[str]) -> None:
        """Keep how many faults of a kind there are, and each of them."""
        found = [*faults]
        self.figures[what] = len(found)
        self.breaches += [f"{what}: {fault}" for fault in found]


async def judge(
    session: aiohttp.ClientSession,
    url: str,
    world: World,
    readers: list[FeedReader],
    followers: list[ListFollower],
    snapshots: SnapshotReader,
    elapsed: float,
) -> Verdict:
    """Return the verdict on one engine, on which nobody writes any more."""
    feed = await read_all(session, url)
    verdict = Verdict()
    show_work(verdict, world, readers, len(feed), elapsed)
    verdict.count("replies that were not expected", world.faults)
    judge_writes(verdict, world, feed)
    judge_readers(verdict, readers, feed)
    replay = replay_feed(world, feed)
    verdict.count("rows at odds with those before", replay.faults)
    await judge_tables(verdict, session, url, replay, feed)
    judge_followers(verdict, followers, world, replay)
    verdict.figures["lists read with their Feed-Cursor"] = len(snapshots.snapshots)
    faults = snapshots.faults
    for one in snapshots.snapshots:
        faults += await judge_snapshot(session, url, one, feed, replay)
    verdict.count("missed from a list's Feed-Cursor on", faults)
    return verdict


def show_work(
    verdict: Verdict, world: World, readers: list[FeedReader], rows: int, elapsed: float
) -> None:
    """Show how much was written and read."""
    figures, counts = verdict.figures, world.counts
    figures["writes acknowledged"] = f"{len(world.acks):,}"
    figures["of them a second"] = f"{len(world.acks) / elapsed:,.0f}"
    figures["undos"] = f"{counts['undo']:,}"
    deleted = counts["customer.deleted"], counts["purchases.cleared"]
    figures["customers deleted, cleared"] = f"{deleted[0]:,}, {deleted[1]:,}"
    figures["answers of a key again"] = f"{counts['replayed']:,}"
    figures["answers of 409, 410, 503"] = ", ".join(
        f"{counts[status]:,}" for status in ("409", "410", "503")
    )
    figures["writes of unknown end"] = world.unknown
    figures["rows of the feed"] = f"{rows:,}"
    total: Counter[str] = sum((reader.counts for reader in readers), Counter())
    for what in ("dropped", "stalled", "lost"):
        figures[f"readers' connections {what}"] = f"{total[what]:,}"
    late = sorted(
        reader.seen_at[change] - ack.at
        for reader in readers
        for change, ack in world.acks.items()
        if reader.transport == "sse" and change in reader.seen_at
    )
    seen = "-"
    if late:
        middle, most = late[len(late) // 2], late[len(late) * 99 // 100]
        seen = f"{1000 * middle:.0f}, {1000 * most:.0f}"
    figures["event after the answer, ms, median and p99"] = seen


def judge_writes(verdict: Verdict, world: World, feed: list[FeedRow]) -> None:
    """Look for each acknowledged change among the rows, and for what is of none."""
    rows: dict[str, list[FeedRow]] = {}
    for row in feed:
        rows.setdefault(row.change, []).append(row)
    verdict.count(
        "acknowledged, not in the feed",
        (
            f"{change}: {ack}"
            for change, ack in world.acks.items()
            if change not in rows
        ),
    )
    verdict.count(
        "changes other than acknowledged",
        (
            f"{change}, {ack}: {fault}"
            for change, ack in world.acks.items()
            if change in rows
            for fault in ack.faults(rows[change])
        ),
    )
    strange = [change for change in rows if change not in world.acks]
    if len(strange) <= world.unknown:  # they may be those of an unknown end
        strange = []
    verdict.count("changes of nobody", strange)


def judge_readers(
    verdict: Verdict, readers: list[FeedReader], feed: list[FeedRow]
) -> None:
    """Hold what each reader has against the feed as it is in the end."""
    whole = {row.cursor: row.lasting() for row in feed}
    order = [row.cursor for row in feed]
    missed, twice, turned, other, faults = [], [], [], [], []
    for number, reader in enumerate(readers):
        name = f"reader {number}, {reader.transport}"
        had = Counter(row.cursor for row in reader.rows)
        missed += [f"{name}: {cursor}" for cursor in order if cursor not in had]
        twice += [f"{name}: {cursor}" for cursor, times in had.items() if times > 1]
        if [*had] != [cursor for cursor in order if cursor in had]:
            turned.append(name)
        other += [
            f"{name}: {row}"
            for row in reader.rows
            if row.lasting() != whole.get(row.cursor)
        ]
        faults += [f"{name}: {fault}" for fault in reader.faults]
    verdict.count("rows missed by a reader", missed)
    verdict.count("rows twice", twice)
    verdict.count("readers with another order", turned)
    verdict.count("rows with another content", other)
    verdict.count("replies that no reader expects", faults)


def replay_feed(world: World, feed: list[FeedRow]) -> Replay:
    """Return what the rows say, one after the other."""
    replay = Replay()
    for row in feed:
        ack = world.acks.get(row.change)
        undone, content = (ack.undoes, ack.content) if ack else (None, None)
        replay.apply(row, undone, content)
    return replay


async def judge_tables(
    verdict: Verdict,
    session: aiohttp.ClientSession,
    url: str,
    replay: Replay,
    feed: list[FeedRow],
) -> None:
    """Hold the lists, and `now` of all rows, against what the rows say."""
    faults = []
    for kind, path in (("purchase", "customer"), ("customer", "customers")):
        async with session.get(f"{url}/api/v1/{path}") as reply:
            rows = (await reply.json())["data"]
        verdict.figures[f"{kind}s in the end"] = f"{len(rows):,}"
        found = dict(content_of(kind, row) for row in rows)
        faults += replay.differences(kind, found)
    verdict.count("other in the tables than by the feed", faults)
    verdict.count(
        "`now` of rows other than it is",
        (f"{row}" for row in feed if not is_now(row, thing_of(row, replay))),
    )


def thing_of(row: FeedRow, replay: Replay) -> Thing | None:
    """Return what a row is of; None for many purchases."""
    if row.purchase_id is not None:
        return replay.purchases.get(row.purchase_id)
    if row.action.startswith("customer."):
        return replay.customers.get(row.customer_id)
    return None


def is_now(row: FeedRow, thing: Thing | None) -> bool:
    """Return whether `now` is what the feed led to."""
    known = thing.visible() if thing else None
    if known is None or row.now is None:
        return known is row.now
    return agree(known, row.now)


def judge_followers(
    verdict: Verdict, followers: list[ListFollower], world: World, replay: Replay
) -> None:
    """Look for what was added, was never deleted, and was passed by."""
    missed = []
    for follower in followers:
        missed += follower.faults
        kind = "customer" if follower.id_name == "id" else "purchase"
        things = replay.customers if kind == "customer" else replay.purchases
        owner = follower.path.rpartition("/")[2]
        missed += [
            f"{follower.path}: {number}"
            for number in world.added[kind] - {str(one) for one in follower.ids}
            if (thing := things.get(number))
            and all(seen is not None for _, seen in thing.moments)
            and (not owner.isdigit() or thing.customer_id == owner)
        ]
    pages = sum(follower.pages for follower in followers)
    rows = sum(len(follower.ids) for follower in followers)
    verdict.figures["pages of lists followed, rows"] = f"{pages:,}, {rows:,}"
    verdict.count("added, missed in a list", missed)


async def judge_snapshot(
    session: aiohttp.ClientSession,
    url: str,
    snapshot: Snapshot,
    feed: list[FeedRow],
    replay: Replay,
) -> list[str]:
    """Return what differs from a list and is not told from its Feed-Cursor on."""
    params = {"after": snapshot.cursor, "limit": "1"}
    async with session.get(f"{url}/api/v1/changes", params=params) as reply:
        rows = (await reply.json())["data"]
    position = len(feed)
    if rows:
        position = [row.cursor for row in feed].index(rows[0]["cursor"])
    found: dict[str, Json] = snapshot.rows
    faults = replay.differences(
        snapshot.kind, found, position, of_customer=snapshot.customer_id
    )
    return [f"from {snapshot.cursor} on: {fault}" for fault in faults]
