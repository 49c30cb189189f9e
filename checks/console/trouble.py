"""What the page does where it may not, or where nobody answers."""

import signal
from pathlib import Path

from playwright.sync_api import Browser, expect

from api.auth import new_token
from checks.console.story import Row
from checks.console.visit import Visit, visiting
from checks.support.server_process import Server, exchange, request_bytes, serving

SILENCE = "The server does not answer."
ADA = b'{"name": "Ada", "address": ""}'


def write_tokens(folder: Path) -> tuple[str, str]:
    """Write a file with two tokens; return them: one may read, one write."""
    read, read_line = new_token("till", "read")
    write, write_line = new_token("clerk", "write")
    tokens = folder / "tokens"
    tokens.write_text(f"{read_line}\n{write_line}\n")
    tokens.chmod(0o600)
    return read, write


def come_in(browser: Browser, folder: Path) -> list[Row]:
    """Sign in with a wrong token, one that may read, and one that may write."""
    read, write = write_tokens(folder)
    with serving(folder, {"API_TOKENS_FILE": "tokens"}) as server:
        head = [("Authorization", f"Bearer {write}")]
        exchange(server.port, request_bytes("POST", "/api/v1/customer", ADA, head))
        with visiting(browser, server) as visit:
            expect(visit.heading).to_have_text("Sign in")
            rows = [Row("no request without a token is refused", [], [*visit.refusals])]
            rows.append(Row("sign in: axe", [], visit.barriers_in_both()))
            sign_in(visit, "wrong")
            alert = visit.page.get_by_role("alert").filter(has_text="does not know")
            expect(alert).to_contain_text("Request id")
            sign_in(visit, read)
            expect(visit.page.get_by_text("till, may only read")).to_be_visible()
            rows += read_only(visit)
            visit.press("Sign out")
            expect(visit.heading).to_have_text("Sign in")
            sign_in(visit, write)
            rows += read_and_write(visit)
            return [*rows, Row("tokens: console, policy, hosts", [], visit.faults())]


def sign_in(visit: Visit, token: str) -> None:
    """Give a token."""
    visit.type("Token", token)
    visit.press("Sign in")


def read_only(visit: Visit) -> list[Row]:
    """Look for what would write."""
    titles = {"#customers": "Customers", "#customer/1": "Ada", "#history": "History"}
    buttons: list[str] = []
    for place, title in titles.items():
        visit.go(place, title)
        buttons += visit.page.locator("main button").all_inner_texts()
    imports = visit.page.get_by_role("link", name="Import").count()
    visit.page.reload()
    expect(visit.heading).to_have_text("History")  # the tab still knows the token
    return [
        Row("a read token: buttons that write", [], buttons),
        Row("a read token: link to the import", 0, imports),
    ]


def read_and_write(visit: Visit) -> list[Row]:
    """Find what writes; download; open another tab, which knows no token."""
    visit.go("#customer/1", "Ada")
    expect(visit.control("Delete customer")).to_be_visible()
    with visit.page.expect_download() as download:
        visit.press("Download")
    header = download.value.path().read_text("utf-8-sig").splitlines()[0]
    kept = visit.page.evaluate("JSON.stringify([{...localStorage}, document.cookie])")
    fresh = visit.page.context.new_page()
    fresh.goto(f"{visit.server.url}/console")
    expect(fresh.locator("h1")).to_have_text("Sign in")
    return [
        Row("what is kept beyond the tab", '[{},""]', kept),
        Row("a download begins with", "purchase_id", header.split(",")[0]),
    ]


def outlive(browser: Browser, folder: Path) -> list[Row]:
    """Stop the server under the page, write meanwhile, and start it again."""
    server = Server(folder).start()
    try:
        exchange(server.port, request_bytes("POST", "/api/v1/customer", ADA))
        with visiting(browser, server, "#customer/1") as visit:
            expect(visit.heading).to_have_text("Ada")
            lost = lose_an_answer(visit)
            page = visit.page
            fill_in(visit, "Lamp")
            server.stop(signal.SIGKILL)
            visit.press("Add")
            expect(page.locator("dialog").get_by_role("alert")).to_contain_text(SILENCE)
            expect(page.get_by_text("tries again")).to_be_visible()
            barriers = visit.barriers_in_both()
            server.start()
            expect(page.get_by_text("tries again")).to_be_hidden()
            visit.press("Add")
            total = page.get_by_role("status")
            expect(total).to_have_text("2 purchases, 8 pieces in all")
            server.stop(signal.SIGKILL)
            visit.press("History")
            expect(visit.heading).to_have_text("This cannot be shown")
            barriers += visit.barriers_in_both()
            server.start()
            expect(visit.heading).to_have_text("History")
            faults = Row("away and back: console, policy, hosts", [], visit.faults())
            return [lost, Row("while it is away: axe", [], barriers), faults]
    finally:
        server.stop(signal.SIGKILL)


def fill_in(visit: Visit, name: str) -> None:
    """Fill in the form of a purchase."""
    visit.press("Add purchase")
    visit.type("What was bought", name)
    visit.type("Quantity", "4")


def lose_an_answer(visit: Visit) -> Row:
    """Add a purchase whose answer is lost on the way, and press the button again."""
    path = "**/api/v1/purchase/1"
    fill_in(visit, "Tea cup")
    visit.page.route(path, lambda route: (route.fetch(), route.abort()))
    visit.press("Add")
    alert = visit.page.locator("dialog").get_by_role("alert")
    expect(alert).to_contain_text(SILENCE)
    visit.page.unroute(path)
    visit.press("Add")
    expect(visit.notice).to_contain_text("Added: Tea cup.")
    listed = exchange(visit.server.port, request_bytes("GET", "/api/v1/purchase/1"))
    added = listed.body.count(b"Tea cup")
    return Row("an addition sent twice, as its answer was lost: rows", 1, added)
