"""Use /console as people do, in Chromium, and look at what they see.

    python -m checks.console [--keep] [--pictures FOLDER]

A clerk's story by clicking, and by the keyboard alone: afterwards the rows are what
they were. A file of 50,000 purchases, imported and undone. Two tabs that correct one
customer, and how soon one shows what the other did. Names that are no plain text;
axe-core on every screen, light and dark, also 320 px wide; German dates; 100,000
purchases. Tokens, and a server that goes away and comes back. The browser's console
holds no error, the content security policy is not broken, and no request goes to
another host. `--keep` saves docs/console.png, the picture in the README; `--pictures`
saves one of every screen.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser

from checks.browser import chromium
from checks.console import looks, picture, story, trouble
from checks.console.story import Row
from checks.console.visit import visiting
from checks.support.report import print_table
from checks.support.server_process import PROJECT, serving

PICTURE = PROJECT / "docs" / "console.png"


def look_at_all(browser: Browser, folder: Path, pictures: Path | None) -> Iterator[Row]:
    """Yield what was seen, with what should be."""
    for name in ("clicks", "keys", "names", "tokens", "away"):
        (folder / name).mkdir()
    with serving(folder / "clicks") as server:
        with visiting(browser, server) as visit:
            yield from story.tell(visit)
        yield from story.import_and_undo(browser, server)
    with (
        serving(folder / "keys") as server,
        visiting(browser, server, by_keyboard=True) as visit,
    ):
        yield from story.tell(visit)
    with serving(folder / "names") as server:
        looks.record_names(server)
        yield from looks.show_names(browser, server)
        yield from looks.examine(browser, server, pictures)
        yield from looks.speak_german(browser, server)
        yield from story.race(browser, server)
        looks.import_purchases(server, len(looks.NAMES))
        yield from looks.scroll(browser, server, len(looks.NAMES))
    yield from trouble.come_in(browser, folder / "tokens")
    yield from trouble.outlive(browser, folder / "away")


def main() -> int:
    """Run the check; 1 on a breach."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", action="store_true", help=f"save {PICTURE.name}")
    parser.add_argument("--pictures", type=Path, help="save a picture of every screen")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, chromium() as browser:
        rows = [*look_at_all(browser, Path(name), options.pictures)]
        if options.keep:
            (Path(name) / "picture").mkdir()
            with serving(Path(name) / "picture") as server:
                picture.take(browser, server, PICTURE)
    print_table(("on /console", "expected", "seen"), rows)
    return int(any(row.expected != row.seen for row in rows))


if __name__ == "__main__":
    sys.exit(main())
