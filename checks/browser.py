"""Try /docs as a person does: open it in Chromium, click, and look for faults.

    python checks/browser.py [--keep]

A headless Chromium (Debian's; installed where it is missing and this is root) opens
the page, unfolds "create customer", and clicks "Try it out" and "Execute". The answer
must be 201, the row must be there, the console must hold no error, and no request may
go to another host. `--keep` saves the screenshot as docs/docs-page.png.
"""

import argparse
import asyncio
import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aiohttp import ClientSession, ClientWebSocketResponse
from serving import PROJECT, Server, call, print_table, serving

SCREENSHOT = PROJECT / "docs" / "docs-page.png"
FLAGS = (
    "--headless",
    "--no-sandbox",  # root may not use the sandbox
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",  # a free one
)
WIDTH, HEIGHT = 1280, 1500
WAIT_SECONDS = 30.0
OPERATION = "#operations-customers-create_customer"
STATUS = f"{OPERATION} .live-responses-table .response-col_status"
PROMISE = """new Promise((done) => {
  const look = () => {
    const found = %s;
    if (found) done(found);
    else setTimeout(look, 20);
  };
  look();
})"""
CENTRE = """(() => {
  const found = document.querySelector(%s);
  if (!found) return null;
  found.scrollIntoView({block: "center", behavior: "instant"});
  const box = found.getBoundingClientRect();
  return box.width ? [box.x + box.width / 2, box.y + box.height / 2] : null;
})()"""


def chromium() -> str:
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


class Tab:
    """A page of the browser, over the DevTools protocol."""

    def __init__(self, socket: ClientWebSocketResponse) -> None:
        self.socket = socket
        self.sent = 0
        self.answers: dict[int, asyncio.Future[Any]] = {}
        self.events: list[dict[str, Any]] = []

    async def listen(self) -> None:
        """Sort what the browser says into answers and events."""
        async for message in self.socket:
            said = json.loads(message.data)
            if "id" in said:
                self.answers.pop(said["id"]).set_result(said)
            else:
                self.events.append(said)

    async def send(self, method: str, **params: object) -> dict[str, Any]:
        """Send a command and return its result. RuntimeError when it is refused."""
        self.sent += 1
        future = asyncio.get_running_loop().create_future()
        self.answers[self.sent] = future
        command = {"id": self.sent, "method": method, "params": params}
        await self.socket.send_json(command)
        said = await asyncio.wait_for(future, WAIT_SECONDS)
        if "error" in said:
            raise RuntimeError(f"{method}: {said['error']}")
        result: dict[str, Any] = said["result"]
        return result

    async def value(self, expression: str) -> Any:
        """Return the value of a JavaScript expression, or of its promise."""
        found = await self.send(
            "Runtime.evaluate",
            expression=expression,
            awaitPromise=True,
            returnByValue=True,
        )
        return found["result"].get("value")

    async def wait(self, expression: str) -> Any:
        """Return the value of an expression as soon as it has one. TimeoutError."""
        return await self.value(PROMISE % expression)

    async def text(self, selector: str) -> str:
        """Return the text of an element, once it is there."""
        found = await self.wait(
            f"document.querySelector({json.dumps(selector)})?.innerText"
        )
        return str(found)

    async def click(self, selector: str) -> None:
        """Press and let go the mouse in the middle of an element, once it is there."""
        x, y = await self.wait(CENTRE % json.dumps(selector))
        for kind in ("mousePressed", "mouseReleased"):
            mouse = {"type": kind, "x": x, "y": y, "button": "left", "clickCount": 1}
            await self.send("Input.dispatchMouseEvent", **mouse)

    def of(self, method: str) -> list[dict[str, Any]]:
        """Return what the events of a kind hold."""
        return [said["params"] for said in self.events if said["method"] == method]


@contextmanager
def browser(profile: Path) -> Iterator[str]:
    """Run Chromium with a new profile, and yield the port of its DevTools."""
    command = [chromium(), *FLAGS, f"--user-data-dir={profile}"]
    command += [f"--window-size={WIDTH},{HEIGHT}", "about:blank"]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, stdout=quiet, stderr=quiet)
    try:
        yield devtools_port(profile / "DevToolsActivePort")
    finally:
        process.terminate()
        process.wait()


def devtools_port(file: Path) -> str:
    """Return what Chromium writes to the file once it listens. RuntimeError."""
    for _ in range(int(WAIT_SECONDS / 0.05)):
        if file.exists() and "\n" in (text := file.read_text()):
            return text.splitlines()[0]
        time.sleep(0.05)
    raise RuntimeError("Chromium does not listen")


@asynccontextmanager
async def first_tab(port: str) -> AsyncIterator[Tab]:
    """Speak with the tab that the browser begins with."""
    async with (
        ClientSession() as session,
        session.ws_connect(await tab_url(session, port), max_msg_size=0) as socket,
    ):
        tab = Tab(socket)
        listening = asyncio.create_task(tab.listen())
        yield tab
        listening.cancel()


async def tab_url(session: ClientSession, port: str) -> str:
    """Return the address of the first tab."""
    async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
        tabs = await answer.json()
    return next(
        str(tab["webSocketDebuggerUrl"]) for tab in tabs if tab["type"] == "page"
    )


async def try_it_out(tab: Tab, server: Server) -> dict[str, object]:
    """Send "create customer" from the page by clicking; return what it shows."""
    for domain in ("Page", "Runtime", "Log", "Network"):
        await tab.send(f"{domain}.enable")
    await tab.send("Page.navigate", url=f"{server.url}/docs")
    title = await tab.text(".info .title")
    await tab.click(f"{OPERATION} .opblock-summary-control")
    await tab.click(f"{OPERATION} .try-out__btn")
    await tab.click(f"{OPERATION} .execute")
    status = await tab.text(f"{STATUS}:not(.col_header)")
    body = await tab.text(f"{OPERATION} .live-responses-table .highlight-code")
    return {"title": title, "status": status.split()[0], "body": body}


async def screenshot(tab: Tab) -> bytes:
    """Return a picture (PNG) of the page, from its top to the end of the answer."""
    shown = f'document.querySelector("{OPERATION} .live-responses-table")'
    bottom = f"{shown}.getBoundingClientRect().bottom + scrollY"
    clip = {"x": 0, "y": 0, "width": WIDTH, "scale": 1}
    clip["height"] = round(await tab.value(bottom))
    await tab.value("scrollTo(0, 0)")
    picture = await tab.send(
        "Page.captureScreenshot", clip=clip, captureBeyondViewport=True
    )
    return base64.b64decode(picture["data"])


def faults(tab: Tab, server: Server) -> dict[str, list[str]]:
    """Return what the console shows, and the requests to anywhere but the server."""
    said = [entry["entry"]["text"] for entry in tab.of("Log.entryAdded")]
    said += [str(thrown) for thrown in tab.of("Runtime.exceptionThrown")]
    said += [
        str(logged["args"])
        for logged in tab.of("Runtime.consoleAPICalled")
        if logged["type"] in ("error", "warning", "assert")
    ]
    urls = [sent["request"]["url"] for sent in tab.of("Network.requestWillBeSent")]
    other = [
        url
        for url in urls
        if urlsplit(url).netloc != f"127.0.0.1:{server.port}"
        and urlsplit(url).scheme not in ("data", "blob")  # these go to no host
    ]
    return {"console messages": said, "requests to another host": other}


async def visit(server: Server, port: str) -> tuple[dict[str, object], bytes]:
    """Try the page out; return what was seen, and a picture."""
    async with first_tab(port) as tab:
        seen = await try_it_out(tab, server)
        picture = await screenshot(tab)
        sent = tab.of("Network.requestWillBeSent")
        return {**seen, "requests": len(sent), **faults(tab, server)}, picture


def main() -> int:
    """Run the check; 1 on a breach."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", action="store_true", help=f"save {SCREENSHOT.name}")
    options = parser.parse_args()
    # Chromium's helpers may still write to the profile when it has ended.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        profile, folder = Path(name, "profile"), Path(name, "server")
        folder.mkdir()
        with serving(folder) as server, browser(profile) as port:
            seen, picture = asyncio.run(visit(server, port))
            row = call(server, "GET", "/api/v1/customer/1").json()
    if options.keep:
        SCREENSHOT.write_bytes(picture)
    shown = str(seen["body"]).partition("{")
    rows = [
        ("title", "Customer purchase server", str(seen["title"]).splitlines()[0]),
        ("status of create customer", "201", seen["status"]),
        ("the answer on the page is the row", row, json.loads("{" + shown[2])),
        ("console messages", [], seen["console messages"]),
        ("requests to another host", [], seen["requests to another host"]),
        ("requests", "at least 7", seen["requests"]),
    ]
    print_table(("on /docs, by clicking", "expected", "seen"), rows)
    return int(any(expected != found for _, expected, found in rows[:-1]))


if __name__ == "__main__":
    sys.exit(main())
