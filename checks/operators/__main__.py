"""Try what operators copy: parse the files of docs/, and run the proxies.

    python -m checks.operators

Each file of docs/ is parsed by the program that it is for. Then nginx, Caddy and
HAProxy stand before a real server, as their files say but for ports and folders, and
the commands for backups and a restore are run. A program that is not installed is
named, and left out.
"""

import sys
from collections.abc import Callable
from functools import partial

from checks.operators.backups import try_backups
from checks.operators.documents import check_rotation, parse_document
from checks.operators.proxies import PROXIES, check_proxy
from checks.operators.tools import DOCS, BreachError, MissingError
from checks.support.report import print_table


def judged(check: Callable[[], None]) -> tuple[str, bool]:
    """Return what a check says, and whether it is a breach."""
    try:
        check()
    except MissingError as exc:
        return f"skipped: {exc}", False
    except BreachError as exc:
        return str(exc), True
    return "held", False


def main() -> int:
    """Run the check; 1 on a breach."""
    checks: dict[str, Callable[[], None]] = {
        f"docs/{path.name}": partial(parse_document, path)
        for path in sorted(DOCS.iterdir())
    }
    checks["commands of docs/backups.md"] = try_backups
    checks["logs of containers"] = check_rotation
    for name in PROXIES:
        checks[f"{name} before a server"] = partial(check_proxy, name)
    found = {name: judged(check) for name, check in checks.items()}
    print_table(("tried", "seen"), [(name, seen) for name, (seen, _) in found.items()])
    return int(any(breach for _, breach in found.values()))


if __name__ == "__main__":
    sys.exit(main())
