"""How the page looks: to everybody, at any width, in any language, with any text."""

from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, expect

from checks.console.story import Row, file_of
from checks.console.visit import Visit, visiting
from checks.support.server_process import Server, call, exchange, request_bytes

NAMES = (
    "<img src=x onerror=alert(1)>",
    "\u202eright to left\u202c",
    "\u05d0\u05d1\u05d2\u05d3 \u05d4\u05d5\u05d6\u05d7",
    "\u0645\u062d\u0645\u062f \u0639\u0644\u064a",
    "n" * 200,
    "'\"><script>alert(1)</script>",
    "{{7*7}} ${7*7} &amp; \\u0041",
    "javascript:alert(1)",
)
SCREENS = {
    "#customers": "Customers",
    "#customer/1": NAMES[0],
    "#history": "History",
    "#history/change/1": "Change 1",
    "#import": "Import",
    "#server": "Server",
}
MANY = 100_000


def record_names(server: Server) -> None:
    """Record a customer of each name, who bought a thing of each name."""
    for name in NAMES:
        new = {"name": name, "address": name}
        reply = call(server, "POST", "/api/v1/customer", new)
        path = reply.headers["Location"].replace("customer", "purchase")
        for bought in NAMES:
            thing = {
                "purchase_name": bought,
                "quantity": 1234,
                "purchased_on": "2026-03-05T10:00:00Z",
            }
            call(server, "POST", path, thing)


def show_names(browser: Browser, server: Server) -> list[Row]:
    """Show every name on every screen, as a row, a title, and in a form."""
    with visiting(browser, server) as visit:
        listed = visit.page.locator(".body a")
        expect(listed).to_have_count(len(NAMES))
        shown = listed.all_inner_texts()
        missing = [name for name in NAMES if name not in shown]
        visit.page.on("dialog", lambda dialog: visit.messages.append("a script ran"))
        for number, name in enumerate(NAMES, 1):
            visit.go(f"#customer/{number}", name)
            bought = visit.page.locator(".body span bdi")
            expect(bought).to_have_text([*reversed(NAMES)])
            visit.control("Correct").click()
            expect(visit.page.get_by_label("Name")).to_have_value(name)
        visit.go("#history", "History")
        expect(visit.rows.first).to_be_visible()
        told = visit.page.get_by_role("table").inner_text()
        return [
            Row("names that are not shown as text, in the list", [], missing),
            Row("a name as text, in the history", True, NAMES[0] in told),
            Row("names: console, policy, hosts", [], visit.faults()),
        ]


def examine(browser: Browser, server: Server, folder: Path | None) -> list[Row]:
    """Look at every screen, light and dark, wide and narrow, with axe."""
    rows = []
    for scheme in ("light", "dark"):
        for width in (1100, 320):
            kind = f"{scheme}, {width} px"
            size = {"width": width, "height": 800}
            options: dict[str, Any] = {"color_scheme": scheme, "viewport": size}
            with visiting(browser, server, **options) as visit:
                barriers, wide = [], []
                for place in [*SCREENS, *STATES]:
                    show(visit, place)
                    barriers += [f"{place} {one}" for one in visit.barriers()]
                    wide += [place] * (visit.overflow() > 0)
                    if folder is not None:
                        name = place.strip("#").replace("/", "-")
                        picture = folder / f"{name}-{scheme}-{width}.png"
                        visit.page.screenshot(path=picture)
                rows += [
                    Row(f"{kind}: axe, serious or critical", [], barriers),
                    Row(f"{kind}: screens wider than the window", [], wide),
                    Row(f"{kind}: console, policy, hosts", [], visit.faults()),
                ]
    return rows


def show(visit: Visit, place: str) -> None:
    """Show a screen, or what comes over one."""
    if place in SCREENS:
        visit.go(place, SCREENS[place])
        return
    visit.go("#customers", "Customers")
    STATES[place](visit)


def show_form(visit: Visit) -> None:
    """Show a customer that is being corrected."""
    visit.go("#customer/2", NAMES[1])
    visit.press("Correct")
    visit.page.locator("main form").wait_for()


def show_refusal(visit: Visit) -> None:
    """Show a form with what the server finds wrong with it."""
    visit.go("#customer/2", NAMES[1])
    visit.press("Add purchase")
    visit.type("What was bought", " ")
    visit.type("Quantity", "9999999999")
    visit.press("Add")
    expect(visit.page.locator("dialog .field .fault").first).not_to_be_empty()


def show_question(visit: Visit) -> None:
    """Show the question before all purchases are deleted."""
    visit.go("#customer/2", NAMES[1])
    visit.press("Delete all")
    visit.page.locator("dialog").wait_for()


def show_undo(visit: Visit) -> None:
    """Show what follows a deletion, and the problem of what cannot be undone."""
    show_question(visit)
    visit.press("Delete all purchases")
    visit.undo()
    visit.go("#customer/1", NAMES[0])
    visit.go("#history/change/1", "Change 1")
    visit.press("Undo change 1")
    expect(visit.notice).to_contain_text("Request id")


def show_conflict(visit: Visit) -> None:
    """Show a purchase that somebody else has changed meanwhile."""
    visit.go("#customer/1", NAMES[0])
    visit.control(f"Correct {NAMES[0]}").click()
    visit.type("Quantity", "5")
    quantity = call(visit.server, "GET", "/api/v1/customer/1/purchase/1").json()
    assert isinstance(quantity, dict)
    changes = {"quantity": quantity["data"]["quantity"] + 1}
    call(visit.server, "PATCH", "/api/v1/purchase/1", changes)
    visit.press("Save")
    visit.control("Save mine").wait_for()


def show_faults(visit: Visit) -> None:
    """Show the faults of a file."""
    visit.go("#import", "Import")
    visit.page.get_by_label("File").set_input_files(file_of(3, "Eve,,,x"))
    visit.page.get_by_role("group", name="Faults").wait_for()


STATES = {
    "form": show_form,
    "refusal": show_refusal,
    "question": show_question,
    "undo": show_undo,
    "conflict": show_conflict,
    "faults": show_faults,
}


def speak_german(browser: Browser, server: Server) -> list[Row]:
    """Look at dates and numbers in a browser that speaks German."""
    with visiting(browser, server, "#customer/2", locale="de-DE") as visit:
        expect(visit.heading).to_have_text(NAMES[1])
        row = visit.rows.first
        expect(row).to_be_visible()
        cells = row.locator("[role=cell]").all_inner_texts()
        total = visit.page.get_by_role("status").inner_text()
        return [
            Row("German: number and date", ["1.234", "05.03.2026, 10:00"], cells[2:4]),
            Row("German: total", "8 purchases, 9.872 pieces in all", total),
        ]


def import_purchases(server: Server, customer: int) -> None:
    """Give a customer MANY purchases, by a file."""
    lines = [f"{customer},Thing {i},{i % 9 + 1}\n" for i in range(MANY)]
    body = ("customer_id,purchase_name,quantity\n" + "".join(lines)).encode()
    headers = [("Content-Type", "text/csv")]
    request = request_bytes("POST", "/api/v1/imports", body, headers)
    reply = exchange(server.port, request, timeout=120)
    assert reply.status == 201, reply


def scroll(browser: Browser, server: Server, customer: int) -> list[Row]:
    """Scroll through the purchases of a customer who has MANY."""
    with visiting(browser, server, f"#customer/{customer}") as visit:
        page = visit.page
        status = page.get_by_role("status")
        expect(status).to_contain_text(f"{MANY + len(NAMES):,} purchases")
        first = page.get_by_text(f"Thing {MANY - 1}", exact=True)
        expect(first).to_be_visible()
        page.evaluate("scrollTo(0, document.body.scrollHeight / 2)")
        middle = page.get_by_text(f"Thing {MANY // 2}", exact=True)
        expect(middle).to_be_attached()
        page.evaluate("scrollTo(0, document.body.scrollHeight)")
        expect(page.get_by_text("Thing 0", exact=True)).to_be_visible()
        drawn = visit.rows.count()
        page.evaluate("scrollTo(0, 0)")
        expect(first).to_be_visible()
        return [
            Row(
                f"{MANY:,} purchases: rows in the document under 100", True, drawn < 100
            ),
            Row(f"{MANY:,} purchases: console, policy, hosts", [], visit.faults()),
        ]
