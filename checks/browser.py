"""Try /docs as a person does: open it in Chromium, click, and look for errors.

    python -m checks.browser

A headless Chromium (Debian's; installed where it is missing and this is root) opens
the page, unfolds "create customer", and clicks "Try it out" and "Execute". The reply
must be 201, and the row must be there. It deletes purchases by the query, with the body
left as the page fills it in, and by a body beside a query, which is refused. It runs
every other operation, and undoes a change. The console must hold no error, and no
request may go to another host. Locks are shown where the server wants a token, and only
there.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    FilePayload,
    Locator,
    Page,
    sync_playwright,
)

import handlers
from checks.fuzz import new_token
from checks.support.report import print_table
from checks.support.server_process import Server, call, serving

WAIT_MILLISECONDS = 30_000
UNDONE = 12
"""The change of the customer, after a creation and additions, deletions, updates."""
CREATE = "#operations-customers-create_customer"
DELETE = "#operations-purchases-delete_purchases"
RESPONSES = ".live-responses-table"
LOCKS = ".authorization__btn, .btn.authorize"
REFUSED = "the server responded with a status of 422"
"""What Chromium writes on the console about the request that is to be refused."""


FILE: FilePayload = {
    "name": "old.csv",
    "mimeType": "text/csv",
    "buffer": b"customer_name,customer_address,purchase_name,quantity\nAda,,Cup,1\n",
}
"""A file to import."""


@dataclass
class Visit:
    """A page of a browser, with all that it wrote on the console and asked for."""

    page: Page
    server: Server
    messages: list[str] = field(default_factory=list)
    urls: list[str] = field(default_factory=list)

    def open(self) -> "Visit":
        """Open /docs, and wait until it shows the operations."""
        self.page.set_default_timeout(WAIT_MILLISECONDS)
        self.page.on("console", self._keep)
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("request", lambda request: self.urls.append(request.url))
        self.page.goto(f"{self.server.url}/docs")
        self.page.locator(".opblock").first.wait_for()
        return self

    def _keep(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning", "assert"):
            self.messages.append(message.text)

    def strangers(self) -> list[str]:
        """Return the URLs asked for that are of another host."""
        parts = map(urlsplit, self.urls)
        host = f"127.0.0.1:{self.server.port}"
        schemes = ("data", "blob")  # these go to no host
        return [
            part.geturl()
            for part in parts
            if part.netloc != host and part.scheme not in schemes
        ]


def find_chromium() -> str:
    """Return the path of Chromium, installed if need be. RuntimeError without it."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None and os.getuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "update", "-qq"], check=True)
        install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends"]
        subprocess.run([*install, "chromium"], check=True, stdout=subprocess.DEVNULL)
        found = shutil.which("chromium")
    if found is None:
        raise RuntimeError("no Chromium here, and only root can install it")
    return found


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run a browser for the length of a with block."""
    arguments = ["--no-sandbox"] if os.getuid() == 0 else []  # root may not use it
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find_chromium(), args=arguments
        )
        try:
            yield browser
        finally:
            browser.close()


def unfold(operation: Locator) -> Locator:
    """Unfold an operation, and let it be tried out."""
    operation.locator(".opblock-summary-control").click()
    operation.locator(".try-out__btn").click()
    operation.locator(".execute").wait_for()
    return operation


def execute(page: Page, operation: Locator) -> tuple[str, object]:
    """Send the request of an operation by clicking; return status and JSON shown."""
    with page.expect_response("**/api/**"):
        operation.locator(".execute").click()
    operation.locator(".loading-container").wait_for(state="detached")
    shown = operation.locator(RESPONSES)
    status = shown.locator(".response-col_status:not(.col_header)").first.inner_text()
    body = shown.locator(".highlight-code").first.inner_text()
    return status.split()[0], json.loads("{" + body.partition("{")[2])


def field_of(operation: Locator, parameter: str) -> Locator:
    """Return the field of a parameter."""
    row = operation.locator(f'tr[data-param-name="{parameter}"]')
    return row.locator("input, select").first


def delete_by_clicking(page: Page) -> list[tuple[str, object]]:
    """Delete purchase 2 by its id, all by the query, then by a query and a body."""
    operation = page.locator(DELETE)
    operation.locator(".opblock-summary-control").click()
    field_of(operation, "id").fill("1")
    operation.locator(".json-schema-form-item-add").click()
    field_of(operation, "purchase_id").fill("2")
    field_of(operation, "purchase_id").blur()
    shown = [execute(page, operation)]
    operation.locator(".json-schema-form-item-remove").click()
    field_of(operation, "delete_all").select_option("true")
    shown.append(execute(page, operation))
    body = operation.locator("textarea.body-param__text")
    body.fill('{"purchase_ids": [3]}')
    body.blur()
    shown.append(execute(page, operation))
    return shown


def run(page: Page, name: str, fields: dict[str, str]) -> str:
    """Run an operation that can be tried out; return the status that the page shows."""
    operation = page.locator(f'.opblock[id$="-{name}"]')
    operation.locator(".opblock-summary-control").click()
    for parameter, text in fields.items():
        given = field_of(operation, parameter)
        if given.evaluate("element => element.tagName") == "SELECT":
            given.select_option(text)
        else:
            given.fill(text)
            given.blur()
    for upload in operation.locator("input[type=file]").all():
        upload.set_input_files(FILE)
    with page.expect_response("**/*"):
        operation.locator(".execute").click()
    operation.locator(".loading-container").wait_for(state="detached")
    status = operation.locator(f"{RESPONSES} .response-col_status:not(.col_header)")
    shown = status.first.inner_text().split()[0]
    operation.locator(".opblock-summary-control").click()
    return shown


def run_others(page: Page) -> dict[str, str]:
    """Run the operations that no other click has run; return the statuses shown."""
    of_one, of_customer = {"id": "4"}, {"customer_id": "1"}
    of_both = {"customer_id": "1", "purchase_id": "4"}
    inputs = {
        "add_purchase": {"id": "1"},
        "list_customer_purchases": {"id": "1", "limit": "1"},
        "list_purchases": of_customer,
        "change_purchase": of_one,
        "replace_purchase": of_one,
        "read_purchase": of_both,
        "change_customer_purchase": of_both,
        "replace_customer_purchase": of_both,
        "change_customer": of_customer,
        "read_customer": of_customer,
        "find_customers": {"name": "john"},
        "download_customers": {"format": "csv"},
        "download_purchases": {"format": "jsonl"},
        "read_changes": {"order": "desc", "limit": "2", "action": "customer.updated"},
        "read_change": {"change_id": "1"},
        "undo_change": {"change_id": str(UNDONE)},
        "erase_customer": {**of_customer, "purge": "true"},
        "docs_asset": {"asset": "index.css"},
        "console_file": {"file": "app.js"},
        "summarize_purchases": {"by": "day"},
    }
    ran = {CREATE.rpartition("-")[2], DELETE.rpartition("-")[2]}
    names = dict.fromkeys([*inputs, *(route.name for route in handlers.ROUTES)])
    return {
        name: run(page, name, inputs.get(name, {})) for name in names if name not in ran
    }


Row = tuple[str, object, object]


def try_all(visit: Visit) -> list[Row]:
    """Try the page of a server without tokens."""
    page, server = visit.page, visit.server
    title = page.locator(".info .title").inner_text()
    status, created = execute(page, unfold(page.locator(CREATE)))
    row = call(server, "GET", "/api/v1/customer/1").json()
    for operation in page.locator(f".opblock:not({CREATE})").all():
        unfold(operation).locator(".opblock-summary-control").click()
    phone = {"purchase_name": "Iphone 12", "quantity": 4}
    for _ in range(3):
        call(server, "POST", "/api/v1/purchase/1", phone)
    one, the_rest, both = delete_by_clicking(page)
    left = call(server, "GET", "/api/v1/purchase/1").json()
    statuses = run_others(page)
    added = {"create_customer", "add_purchase", "undo_change", "import_file"}
    wrong = {
        name: status
        for name, status in statuses.items()
        if status != ("201" if name in added else "200")
    }
    undoer = call(server, "GET", f"/api/v1/changes/{UNDONE + 1}").json()
    refused = [text for text in visit.messages if REFUSED in text]
    return [
        ("title", "Customer purchase server", title.splitlines()[0]),
        ("status of create customer", "201", status),
        ("the reply on the page is the row", row, created),
        ("delete by ?purchase_id=2", ("200", _deleted(1)), one),
        ("delete by ?delete_all=true", ("200", _deleted(2)), the_rest),
        ("delete by a query and a body", "422", both[0]),
        ("purchases left", {"status": "ok", "data": []}, left),
        ("operations run by clicking", len(handlers.ROUTES), 2 + len(statuses)),
        ("other statuses than 201 and 200", {}, wrong),
        ("action of the undo", "customer.updated", _action(undoer)),
        ("console messages", refused, visit.messages),
        ("refused requests on the console", 1, len(refused)),
        ("requests to another host", [], visit.strangers()),
        ("locks", 0, page.locator(LOCKS).count()),
    ]


def _action(reply: object) -> object:
    rows = reply.get("data") if isinstance(reply, dict) else None
    return rows[0].get("action") if isinstance(rows, list) and rows else reply


def _deleted(count: int) -> dict[str, object]:
    return {"status": "ok", "deleted_count": count}


def main() -> int:
    """Run the check; 1 on a breach."""
    with tempfile.TemporaryDirectory() as name, chromium() as browser:
        folder = Path(name)
        with serving(folder) as server:
            rows = try_all(Visit(browser.new_page(), server).open())
        new_token(folder)
        with serving(folder, {"API_TOKENS_FILE": "tokens"}) as server:
            visit = Visit(browser.new_page(), server).open()
            locked = visit.page.locator(".authorization__btn").count()
            secured = sum(route.access != "public" for route in handlers.ROUTES)
            rows.append(("locks where tokens are wanted", secured, locked))
    print_table(("on /docs, by clicking", "expected", "seen"), rows)
    return int(any(expected != found for _, expected, found in rows))


if __name__ == "__main__":
    sys.exit(main())
