"""The story of a clerk: create, add, correct, delete, undo; import and undo."""

import json
import time
from typing import NamedTuple

from playwright.sync_api import Browser, FilePayload, expect

from checks.console.visit import Visit, visiting
from checks.support.server_process import Server, call, exchange, request_bytes

ROWS = 50_000
"""Purchases in the file to import, which has a customer for ten of them."""
TRIES = 5
MOST_SHOWN = 5


class Row(NamedTuple):
    """A line of the report: what was looked at, and what should be seen."""

    what: str
    expected: object
    seen: object


def snapshot(server: Server) -> list[str]:
    """Return all customers and purchases, as the API lists them."""
    accept = [("Accept", "application/jsonl")]
    lists = [
        exchange(server.port, request_bytes("GET", path, None, accept))
        for path in ("/api/v1/customers", "/api/v1/customer")
    ]
    return [line for reply in lists for line in reply.body.decode().splitlines()]


def purchases(rows: list[str]) -> int:
    """Return the number of purchases among rows."""
    return sum('"purchase_id":' in row for row in rows)


def differing(before: list[str], server: Server) -> list[str]:
    """Return some rows that are not as they were, or stand in another order."""
    after = snapshot(server)
    if before == after:
        return []
    return sorted({*before} ^ {*after})[:MOST_SHOWN] or after[:MOST_SHOWN]


def tell(visit: Visit) -> list[Row]:
    """Create a customer and purchases, correct, delete, undo; return what was seen."""
    server, page = visit.server, visit.page
    start = snapshot(server)
    visit.press("New customer")
    visit.type("Name", "Ada Byron")
    visit.type("Address", "London")
    visit.press("Create")
    expect(visit.heading).to_have_text("Ada Byron")
    for name, quantity in (("Tea cup", "4"), ("Lamp", "1"), ("Ink", "7")):
        visit.press("Add purchase")
        visit.type("What was bought", name)
        visit.type("Quantity", quantity)
        visit.press("Add")
        expect(visit.notice).to_contain_text(f"Added: {name}.")
    expect(page.get_by_role("status")).to_have_text("3 purchases, 12 pieces in all")
    visit.press("Correct")
    visit.type("Name", "Ada Lovelace")
    visit.press("Save")
    expect(visit.heading).to_have_text("Ada Lovelace")
    visit.press("Correct Lamp")
    visit.type("Quantity", "2")
    visit.press("Save")
    expect(page.get_by_role("status")).to_have_text("3 purchases, 13 pieces in all")
    expect(visit.rows).to_have_count(3)
    rows = [*delete_and_undo(visit), *take_all_back(visit, start)]
    who = "by the keyboard alone" if visit.by_keyboard else "by clicking"
    rows.append(Row("console, policy, other hosts", [], visit.faults()))
    return [row._replace(what=f"{who}: {row.what}") for row in rows]


def delete_and_undo(visit: Visit) -> list[Row]:
    """Delete some purchases, all, and the customer; undo each."""
    server, page, rows = visit.server, visit.page, []
    before = snapshot(server)
    visit.select("Select Ink")
    visit.select("Select Tea cup")
    visit.press("Delete selected (2)")
    named = page.locator("dialog").inner_text()
    rows.append(
        Row("the question names both", True, "7 \u00d7 Ink\n4 \u00d7 Tea cup" in named)
    )
    visit.press("Delete")
    expect(visit.notice).to_contain_text("Deleted 2 purchases of Ada Lovelace.")
    expect(page.get_by_text("1 purchase, 2 pieces in all")).to_be_visible()
    expect(visit.rows).to_have_count(1)
    visit.undo()
    expect(visit.rows).to_have_count(3)
    rows.append(Row("delete two, undo: rows", [], differing(before, server)))
    visit.press("Delete all")
    expect(page.locator("dialog")).to_contain_text("all 3 purchases of Ada")
    visit.press("Delete all purchases")
    expect(visit.notice).to_contain_text("Deleted 3 purchases of Ada Lovelace.")
    expect(page.get_by_text("No purchase yet.")).to_be_visible()
    visit.undo()
    expect(page.get_by_text("3 purchases, 13 pieces in all")).to_be_visible()
    rows.append(Row("delete all, undo: rows", [], differing(before, server)))
    visit.press("Delete customer")
    expect(page.locator("dialog")).to_contain_text("Ada Lovelace and 3 purchases")
    visit.press("Delete customer")
    expect(visit.heading).to_have_text("Customers")
    visit.undo()
    rows.append(Row("delete the customer, undo: rows", [], differing(before, server)))
    return rows


def take_all_back(visit: Visit, start: list[str]) -> list[Row]:
    """Undo on the screen of the history what began the story, the newest first."""
    visit.press("History")
    expect(visit.heading).to_have_text("History")
    whats = ("changed purchase", "changed customer")
    for what in (*whats, *["added purchase"] * 3, "created customer"):
        pressed = visit.page.get_by_role("row").filter(has_text=what)
        name = pressed.locator(".undo").first.get_attribute("aria-label") or ""
        visit.press(name)
        change = name.rpartition(" ")[2]
        expect(visit.notice).to_contain_text(f"Undone: change {change} ")
        visit.press("Close this notice")
    return [Row("all undone on the history: rows", [], differing(start, visit.server))]


def file_of(rows: int, fault: str = "") -> FilePayload:
    """Return a file of purchases, perhaps with a fault in its last line."""
    lines = [
        f"Customer {i // 10},Road {i // 10},Cup {i % 7},{i % 9 + 1}"
        for i in range(rows)
    ]
    head = "customer_name,customer_address,purchase_name,quantity"
    text = "\n".join([head, *lines, *([fault] if fault else [])]) + "\n"
    return {"name": "old.csv", "mimeType": "text/csv", "buffer": text.encode()}


def import_and_undo(browser: Browser, server: Server) -> list[Row]:
    """Import a file, after one with faults, and undo that."""
    before = snapshot(server)
    with visiting(browser, server, "#import") as visit:
        page = visit.page
        page.get_by_label("File").set_input_files(file_of(3, "Eve,,,x"))
        expect(page.get_by_role("group", name="Faults")).to_be_visible()
        faults = page.get_by_role("group", name="Faults").inner_text()
        page.get_by_label("File").set_input_files(file_of(ROWS))
        offer = f"Import {ROWS // 10:,} new customers and {ROWS:,} purchases"
        visit.control(offer).wait_for()
        tried = differing(before, server)
        visit.press(offer)
        expect(visit.notice).to_contain_text("Imported old.csv")
        imported = purchases(snapshot(server)) - purchases(before)
        visit.undo()
        left = differing(before, server)
        visit.press("History")
        several = f"created {ROWS // 10:,} customers, added {ROWS:,} purchases"
        expect(page.get_by_text(several)).to_be_visible()
        return [
            Row("import: the line of a fault", True, "\n5\t" in faults),
            Row("import: dry run leaves rows", [], tried),
            Row("import: purchases", ROWS, imported),
            Row("import, undo: rows", [], left),
            Row("import: console, policy, hosts", [], visit.faults()),
        ]


def race(browser: Browser, server: Server) -> list[Row]:
    """Correct one customer in two tabs; see in one what the other does."""
    path, place = "/api/v1/customer/1", "#customer/1"

    def address() -> object:
        return json.loads(call(server, "GET", path).body)["data"]["address"]

    with (
        visiting(browser, server, place) as one,
        visiting(browser, server, place) as other,
        visiting(browser, server, "#history") as watcher,
    ):
        one.press("Correct")
        one.type("Address", "Mine")
        other.press("Correct")
        other.type("Address", "Theirs")
        other.press("Save")
        expect(other.notice).to_contain_text("Corrected")
        one.press("Save")
        conflict = one.page.get_by_role("alert").filter(has_text="Somebody")
        expect(conflict).to_contain_text("Mine")
        expect(conflict).to_contain_text("Theirs")
        kept = address()
        one.press("Save mine")
        expect(one.notice).to_contain_text("Corrected")
        chosen = address()
        delays = [delay(one, other, number) for number in range(TRIES)]
        soon = sorted(delays)[TRIES // 2]
        took = f"{soon * 1000:.0f} ms"
        told = watcher.page.get_by_text(f"Race {TRIES - 1}", exact=True)
        expect(told).to_be_visible()
        faults = one.faults() + other.faults() + watcher.faults()
        return [
            Row("two tabs: nothing is overwritten", "Theirs", kept),
            Row("two tabs: the person chooses", "Mine", chosen),
            Row(f"a second tab, median of {TRIES}: {took}, under 1 s", True, soon < 1),
            Row("412 on the console", 1, len(one.refusals)),
            Row("two tabs: console, policy, hosts", [], faults),
        ]


def delay(one: Visit, other: Visit, number: int) -> float:
    """Return how long after the answer a second tab shows an addition; seconds."""
    one.press("Add purchase")
    one.type("What was bought", f"Race {number}")
    one.type("Quantity", "1")
    with one.page.expect_response("**/api/v1/purchase/1"):
        one.press("Add")
    began = time.monotonic()
    other.page.get_by_text(f"Race {number}", exact=True).wait_for()
    return time.monotonic() - began
