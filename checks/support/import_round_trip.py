"""Exports databases, imports the files into empty ones, and exports them again."""

import json
import random
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from checks.support.import_database import CSV, JSONL, Engine, imported, read, upload
from checks.support.server_process import Server, call

CHANCE = random.Random()  # noqa: S311 - test data, no secret
CUSTOMERS, EACH = 60, 6
FORMATS = {"csv": CSV, "jsonl": JSONL}
LISTS = ("customers", "purchases")
TEXTS = (
    *('"', '""', 'a "quoted", thing', "a;b", "a,b", "a\tb", "|", "'", "''", "a'b"),
    *("a\nb", "a\r\nb", "a\rb", "\nx", "x\n", "\rx", "x\r", "\tx", "x\t", "\r\n=1"),
    *("=1+1", "+1", "-1", "@SUM(1)", "'=x", "''=x", "'x", "' =x", "=", "-", "'-'"),
    *("\uff1d1", "\uff0b1", "\uff0d1", "\uff201", "'\uff1dx", "\uff21\uff22"),
    *(" x", "x ", "  x  ", "\u3000x", "\u00a0x", "x\u2028", "\u0085x", "\ufeffx"),
    *("\u202eabc", "שלום", "مرحبا, \u200fx", "😀", "👩\u200d👩\u200d👧", "日本語"),
    *("é", "e\u0301", "ẞß", "İı", "ﬁ", "%", "_", "\\", "\\n", "null", "NULL", "true"),
    *("1", "007", "1e5", "2024-01-01", "\x01\x7f", "\x1cx", "\x0bx", "\x0cx", "sep=;"),
    *("id,name,address", "\U0010ffff", "\ufffe", "'); DROP TABLE customer;--", "<b>"),
)
TIMES = (
    *("0001-01-02T00:00:00Z", "0999-12-31T23:59:59.999999Z", "1969-12-31T23:59:59Z"),
    *("1970-01-01T00:00:00Z", "1900-02-28T12:00:00.000001+14:00"),
    *("2024-02-29T23:59:59.9-12:00", "2022-04-09T12:43:22.2375269Z"),
)


def make_text(longest: int) -> str:
    """Return a text that is hard to write down, not only of white space."""
    text = "".join(CHANCE.choices(TEXTS, k=CHANCE.choice((1, 1, 2, 3, 8))))
    return text[:longest] if text[:longest].strip() else "x"


def make_time() -> str:
    """Return a time of the past as RFC 3339 writes it, in any zone."""
    if CHANCE.random() < 0.3:
        return CHANCE.choice(TIMES)
    at = datetime.now(UTC) - timedelta(seconds=CHANCE.uniform(1, 5e9))
    zone = timezone(timedelta(minutes=CHANCE.randint(-720, 840)))
    return at.astimezone(zone).isoformat()


def send(server: Server, line: str, value: object = None) -> Any:
    """Send a write and return its data. RuntimeError if it is refused."""
    method, path = line.split()
    reply = call(server, method, path, value)
    found = reply.json()
    if reply.status not in (200, 201) or not isinstance(found, dict):
        raise RuntimeError(f"{line} {value!r}: {reply.status} {reply.body!r}")
    return found.get("data")


def fill(server: Server) -> None:
    """Add customers and purchases, change some and delete some."""
    texts = [*TEXTS, *(make_text(200) for _ in range(CUSTOMERS))]
    usable = [text for text in texts if text.strip()]
    for text in usable:
        person = {"name": text, "address": CHANCE.choice(("", " ", make_text(500)))}
        customer = send(server, "POST /api/v1/customer", person)["id"]
        bought = [add_purchase(server, customer) for _ in range(CHANCE.randrange(EACH))]
        for purchase in bought:
            path = f"/api/v1/purchase/{purchase}"
            if CHANCE.random() < 0.3:
                send(server, f"PATCH {path}", {"purchase_name": make_text(200)})
        chosen = CHANCE.random()
        if chosen < 0.1:
            send(server, f"DELETE /api/v1/customer/{customer}")
        elif chosen < 0.2:
            send(server, f"DELETE /api/v1/customer/{customer}?purge=true")
        elif chosen < 0.3 and bought:
            path = f"/api/v1/purchase/{customer}"
            send(server, f"DELETE {path}?purchase_id={bought[0]}")
        elif chosen < 0.4:
            name = {"name": make_text(200)}
            send(server, f"PATCH /api/v1/customer/{customer}", name)


def add_purchase(server: Server, customer: int) -> int:
    """Add a purchase and return its id."""
    quantity = CHANCE.choice((1, 2**31 - 1, CHANCE.randint(1, 1000)))
    bought = {"purchase_name": make_text(200), "quantity": quantity}
    if CHANCE.random() < 0.8:
        bought["purchased_on"] = make_time()
    return int(send(server, f"POST /api/v1/purchase/{customer}", bought)["id"])


def export(server: Server) -> dict[str, bytes]:
    """Return the four files that can be downloaded, by their names."""
    names = [f"{of}.{form}" for form in FORMATS for of in LISTS]
    return {name: read(server, f"/api/v1/{name}").body for name in names}


def try_copy(files: dict[str, bytes], form: str, target: Engine) -> Iterator[str]:
    """Import files of a format into an empty database; yield what is wrong."""
    with target.serving() as server:
        for of in LISTS:
            reply = upload(server, files[f"{of}.{form}"], FORMATS[form])
            if imported(reply) is None:
                yield f"{of}.{form}: {reply.status} {reply.body[:300]!r}"
                return
        for name, content in export(server).items():
            if content != files[name]:
                yield f"{name} by .{form}: {first_difference(files[name], content)}"
        last = json.loads(files["purchases.jsonl"].splitlines()[-1])
        added = add_purchase(server, int(last["customer_id"]))
        if added != last["purchase_id"] + 1:
            yield f"the purchase after {last['purchase_id']} has the id {added}"


def first_difference(before: bytes, after: bytes) -> str:
    """Return the first lines of two files that differ."""
    lines = [content.splitlines(keepends=True) for content in (before, after)]
    for old, new in zip(*lines, strict=False):
        if old != new:
            return f"{old!r} became {new!r}"
    return f"{len(lines[0])} lines became {len(lines[1])}"


def try_round_trips(
    engines: Sequence[Engine],
) -> tuple[list[tuple[str, str]], list[str]]:
    """Return what was copied how, and what was wrong."""
    done: list[tuple[str, str]] = []
    wrong: list[str] = []
    for source in engines:
        with source.serving() as server:
            fill(server)
            files = export(server)
        rows = [files[f"{of}.jsonl"].count(b"\n") for of in LISTS]
        for target in engines:
            if source.cluster and target.cluster:
                continue
            for form in FORMATS:
                way = f"{source.name} → {target.name}, .{form}"
                faults = [*try_copy(files, form, target)]
                wrong += [f"{way}: {fault}" for fault in faults]
                shown = "differs" if faults else "the same bytes"
                done.append((way, f"{shown}: {rows[0]} customers, {rows[1]} purchases"))
    return done, wrong
