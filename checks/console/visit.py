"""A person at the page: what they see and do, by the mouse or by the keyboard alone."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, expect

from checks.support.server_process import Server

WAIT_MILLISECONDS = 30_000
MOST_TABS = 120
"""How often Tab is pressed to come to a control."""
WATCH = """
window.broken = [];
addEventListener("securitypolicyviolation", (event) => {
  window.broken.push(`${event.violatedDirective} ${event.blockedURI} ${event.sample}`);
});
"""
FOCUSED = """() => {
  const one = document.activeElement;
  if (!one.matches("button, a, input")) return "";
  const label = one.labels?.[0]?.innerText;
  return (one.getAttribute("aria-label") ?? label ?? one.innerText).trim();
}"""
NETWORK = re.compile(r"Failed to load resource: (.*)")
"""What Chromium itself writes on the console about answers that are no success."""


@dataclass
class Visit:
    """A tab that shows the console, with all that it wrote and asked for."""

    page: Page
    server: Server
    by_keyboard: bool = False
    messages: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)

    def start(self, place: str = "") -> "Visit":
        """Watch the tab, and show a screen."""
        expect.set_options(timeout=WAIT_MILLISECONDS)
        self.page.set_default_timeout(WAIT_MILLISECONDS)
        self.page.add_init_script(WATCH)
        self.page.on("console", self._keep)
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("request", lambda one: self.hosts.add(urlsplit(one.url).netloc))
        self.page.goto(f"{self.server.url}/console{place}")
        return self

    def _keep(self, message: ConsoleMessage) -> None:
        if refused := NETWORK.fullmatch(message.text):
            self.refusals.append(refused[1])
        elif message.type in ("error", "warning", "assert"):
            self.messages.append(message.text)

    def go(self, place: str, title: str) -> None:
        """Show a screen by its address, as a bookmark does."""
        self.page.goto(f"{self.server.url}/console{place}")
        expect(self.heading).to_have_text(title)

    @property
    def heading(self) -> Locator:
        """Return the title of the screen."""
        return self.page.locator("h1")

    @property
    def notice(self) -> Locator:
        """Return the newest notice."""
        return self.page.locator(".notice").first

    @property
    def rows(self) -> Locator:
        """Return the rows of the table that are in the document."""
        return self.page.locator(".body [role=row]")

    def control(self, name: str) -> Locator:
        """Return a button or a link by its name; in a dialog if one is open."""
        scope = self.page.locator("dialog[open]")
        root = scope if scope.count() else self.page.locator("body")
        button = root.get_by_role("button", name=name, exact=True)
        return button.or_(root.get_by_role("link", name=name, exact=True)).first

    def press(self, name: str) -> None:
        """Press a button, or follow a link."""
        self.control(name).wait_for()
        if not self.by_keyboard:
            self.control(name).click()
            return
        self.reach(name)
        self.page.keyboard.press("Enter")

    def type(self, label: str, text: str) -> None:
        """Fill in a field."""
        self.page.get_by_label(label, exact=True).wait_for()
        if not self.by_keyboard:
            self.page.get_by_label(label, exact=True).fill(text)
            return
        self.reach(label)
        self.page.keyboard.press("Control+A")
        self.page.keyboard.type(text)

    def select(self, label: str) -> None:
        """Check a box."""
        self.page.get_by_label(label, exact=True).first.wait_for()
        if not self.by_keyboard:
            self.page.get_by_label(label, exact=True).first.check()
            return
        self.reach(label)
        self.page.keyboard.press("Space")

    def reach(self, name: str) -> None:
        """Press Tab until a control has the focus. LookupError."""
        for _ in range(MOST_TABS):
            if self.page.evaluate(FOCUSED) == name:
                return
            self.page.keyboard.press("Tab")
        raise LookupError(f"Tab does not come to {name!r}")

    def undo(self) -> None:
        """Undo what the newest notice tells of, and wait for the notice of that."""
        undo = self.notice.get_by_role("button", name="Undo change")
        self.press(undo.get_attribute("aria-label") or "")
        expect(self.notice).to_contain_text("Undone")

    def faults(self) -> list[str]:
        """Return what should not have been: of console, policy and hosts."""
        broken: list[str] = self.page.evaluate("window.broken")
        others = self.hosts - {f"127.0.0.1:{self.server.port}", ""}
        return [*self.messages, *broken, *sorted(others)]

    def barriers(self) -> list[str]:
        """Return what axe finds serious or critical on the screen."""
        found: list[dict[str, Any]] = Axe().run(self.page).response["violations"]
        grave = [one for one in found if one["impact"] in ("serious", "critical")]
        return [f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in grave]

    def barriers_in_both(self) -> list[str]:
        """Return what axe finds in the light and in the dark."""
        found = []
        for scheme in ("light", "dark"):
            self.page.emulate_media(color_scheme=scheme)
            found += self.barriers()
        return found

    def overflow(self) -> int:
        """Return by how many pixels the screen is wider than the window."""
        script = "document.scrollingElement.scrollWidth - innerWidth"
        return int(self.page.evaluate(script))


@contextmanager
def visiting(
    browser: Browser, server: Server, place: str = "", **options: Any
) -> Iterator[Visit]:
    """Open a tab of its own for the length of a with block."""
    by_keyboard = options.pop("by_keyboard", False)
    context = browser.new_context(**{"locale": "en-GB", "timezone_id": "UTC"} | options)
    try:
        yield Visit(context.new_page(), server, by_keyboard).start(place)
    finally:
        context.close()
