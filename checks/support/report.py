"""How a check says what it has seen: a table, and what should not have been."""

import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

SHOWN, LONGEST = 20, 3000
"""How many breaches are printed, and how many characters of each."""


def print_table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    for line in lines:
        cells = (str(cell).replace("|", "\\|") for cell in line)
        sys.stdout.write(f"| {' | '.join(cells)} |\n")
    sys.stdout.flush()


def print_breaches(breaches: Collection[str]) -> int:
    """Print the first breaches, and how many there are; return the exit status."""
    for breach in islice(breaches, SHOWN):
        sys.stdout.write(f"\nbreach: {breach[:LONGEST]}\n")
    sys.stdout.write(f"\n{len(breaches)} breaches\n")
    return 1 if breaches else 0


@dataclass
class Figures:
    """What was tried and what came of it: lines of a table, and breaches."""

    rows: list[tuple[str, str, str]] = field(default_factory=list)
    breaches: list[str] = field(default_factory=list)

    def judge(self, what: str, expected: object, seen: object, right: bool) -> None:
        """Keep a line of the table, and a breach when it is not right."""
        self.rows.append((what, str(expected), str(seen)))
        if not right:
            self.breaches.append(f"{what}: {seen}, expected {expected}")

    def judge_same(self, what: str, expected: object, seen: object) -> None:
        """Keep a line, and a breach when the two are not the same."""
        self.judge(what, expected, seen, expected == seen)

    def judge_statuses(
        self, what: str, known: set[int], statuses: Mapping[int, int]
    ) -> None:
        """Keep a line of how often each status came, and whether all may come."""
        seen = ", ".join(f"{count:,} of {status}" for status, count in statuses.items())
        expected = ", ".join(map(str, sorted(known)))
        self.judge(what, expected, seen, statuses.keys() <= known)

    def finish(self, heading: str) -> int:
        """Print all of it; return the exit status."""
        print_table((heading, "expected", "seen"), self.rows)
        return print_breaches(self.breaches)
