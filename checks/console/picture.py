"""The picture of the console in the README."""

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

from playwright.sync_api import Browser, expect

from checks.console.visit import visiting
from checks.support.server_process import Server, call

CHANCE = random.Random(7)  # noqa: S311 - no secret
THINGS = (
    "Tea cup",
    "Iphone 12 Pro",
    "Notebook, A5",
    "Desk lamp",
    "Ink, 50 ml",
    "Chair",
)
SIZE = {"width": 1100, "height": 800}


def take(browser: Browser, server: Server, path: Path) -> None:
    """Save a picture of a customer, two of whose purchases were just deleted."""
    new = {"name": "Ada Lovelace", "address": "12 St James's Square, London"}
    place = call(server, "POST", "/api/v1/customer", new).headers["Location"]
    number = place.rpartition("/")[2]
    today = datetime.now(UTC)
    days = sorted((int(abs(CHANCE.gauss(0, 40))) for _ in range(48)), reverse=True)
    for days_ago in days:
        at = today - timedelta(days=days_ago + 1, minutes=CHANCE.randrange(600))
        thing = {
            "purchase_name": CHANCE.choice(THINGS),
            "quantity": CHANCE.randint(1, 9),
        }
        bought = thing | {"purchased_on": at.isoformat()}
        call(server, "POST", f"/api/v1/purchase/{number}", bought)
    with visiting(browser, server, f"#customer/{number}", viewport=SIZE) as visit:
        expect(visit.heading).to_have_text(new["name"])
        for row in (1, 3):
            visit.page.locator(".body input").nth(row).check()
        visit.press("Delete selected (2)")
        visit.press("Delete")
        expect(visit.notice).to_contain_text("Deleted 2 purchases")
        expect(visit.page.get_by_role("status").first).to_contain_text("46 purchases")
        visit.page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
        visit.page.screenshot(path=path)
