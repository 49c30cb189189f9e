"""Try /docs as a person does: open it in Chromium, click, and look for errors.

    python -m checks.browser [--keep]

A headless Chromium (Debian's; installed where it is missing and this is root) opens
the page, unfolds "create customer", and clicks "Try it out" and "Execute". The reply
must be 201, the row must be there, the console must hold no error, and no request may
go to another host. `--keep` saves the screenshot as docs/docs-page.png.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import ConsoleMessage, Page, sync_playwright

from checks.support.server_process import PROJECT, Server, call, print_table, serving

SCREENSHOT = PROJECT / "docs" / "docs-page.png"
WIDTH, HEIGHT = 1280, 1500
WAIT_MILLISECONDS = 30_000
OPERATION = "#operations-customers-create_customer"
RESPONSES = f"{OPERATION} .live-responses-table"


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


def try_it_out(page: Page, server: Server) -> dict[str, str]:
    """Send "create customer" from the page by clicking; return what it shows."""
    page.goto(f"{server.url}/docs")
    title = page.locator(".info .title").inner_text()
    page.locator(f"{OPERATION} .opblock-summary-control").click()
    page.locator(f"{OPERATION} .try-out__btn").click()
    page.locator(f"{OPERATION} .execute").click()
    status = page.locator(f"{RESPONSES} .response-col_status:not(.col_header)")
    body = page.locator(f"{RESPONSES} .highlight-code")
    return {
        "title": title.splitlines()[0],
        "status": status.first.inner_text().split()[0],
        "body": body.first.inner_text(),
    }


def take_screenshot(page: Page) -> bytes:
    """Return a picture (PNG) of the page, from its top to the end of the reply."""
    box = page.locator(RESPONSES).bounding_box()
    assert box is not None
    bottom = box["y"] + box["height"] + page.evaluate("scrollY")
    page.evaluate("scrollTo(0, 0)")
    clip = {"x": 0.0, "y": 0.0, "width": float(WIDTH), "height": float(round(bottom))}
    return page.screenshot(full_page=True, clip=clip)  # type: ignore[arg-type]


def visit(server: Server) -> tuple[dict[str, str], list[str], list[str], bytes]:
    """Try the page out; return what it shows, its messages, its URLs, a picture."""
    messages: list[str] = []
    urls: list[str] = []

    def keep(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning", "assert"):
            messages.append(message.text)

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find_chromium(),
            args=["--no-sandbox"] if os.getuid() == 0 else [],  # root may not use it
        )
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.set_default_timeout(WAIT_MILLISECONDS)
        page.on("console", keep)
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("request", lambda request: urls.append(request.url))
        shown = try_it_out(page, server)
        picture = take_screenshot(page)
        browser.close()
    return shown, messages, urls, picture


def main() -> int:
    """Run the check; 1 on a breach."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", action="store_true", help=f"save {SCREENSHOT.name}")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as server:
        shown, messages, urls, picture = visit(server)
        row = call(server, "GET", "/api/v1/customer/1").json()
    if options.keep:
        SCREENSHOT.write_bytes(picture)
    host = f"127.0.0.1:{server.port}"
    others = [
        url
        for url in urls
        if urlsplit(url).netloc != host
        and urlsplit(url).scheme not in ("data", "blob")  # these go to no host
    ]
    text = "{" + shown["body"].partition("{")[2]
    rows = [
        ("title", "Customer purchase server", shown["title"]),
        ("status of create customer", "201", shown["status"]),
        ("the reply on the page is the row", row, json.loads(text)),
        ("console messages", [], messages),
        ("requests to another host", [], others),
        ("requests", "at least 7", len(urls)),
    ]
    print_table(("on /docs, by clicking", "expected", "seen"), rows)
    return int(any(expected != found for _, expected, found in rows[:-1]))


if __name__ == "__main__":
    sys.exit(main())
