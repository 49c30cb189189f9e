"""The lines of a file to import, and the records of CSV in them (RFC 4180)."""

import csv
import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice

from api.responses import ProblemError

MAX_LINE = 32 * 1024
"""The most bytes of a line, and of a record of several: the longest texts that a row
may hold, all of them escaped, take a third of it."""
MAX_RETURNS = 100
"""How often reading goes on behind the first line of a record that does not end."""
BOM = b"\xef\xbb\xbf"
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
SEPARATOR_LINE = re.compile(rb'"?sep=(.)"?\s*', re.IGNORECASE)
"""A first line that tells Excel the separator."""
QUOTED = re.compile(r'"(?:[^"]|"")*("|\Z)')
TOO_LONG = f"Expected at most {MAX_LINE} bytes in a row."
UNCLOSED = "A quoted cell is not closed."
UNCLOSED_OR_TOO_LONG = f"A quoted cell is not closed, or: {TOO_LONG}"


def not_utf8(line: int) -> ProblemError:
    """Return the 400 for a file in another encoding, which shows at this line."""
    detail = f"The file is not UTF-8: see line {line}. In a spreadsheet, save it as "
    return ProblemError(400, f"{detail}CSV UTF-8.")


class Lines:
    """The lines of a file that hold anything to read, with their ends.

    A line ends with CRLF, LF or CR. ProblemError 400 for UTF-16; `csv.Error` instead
    of a line that is too long, or that makes the record too long that began at `start`.
    """

    def __init__(self, content: bytes) -> None:
        if content.startswith(UTF_16):
            raise not_utf8(1)
        self.number = 0
        """Of the line that came last; the first is 1."""
        self.offset = self.start = len(BOM) if content.startswith(BOM) else 0
        """Of the first byte behind that line; of the record that is being read."""
        self._content = content
        self._block: Iterator[bytes] = iter(())
        self._block_end = self.offset

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        """Return the next line. csv.Error."""
        line = next(self._block, b"") or self._next_of_next_block()
        self.number += 1
        self.offset += len(line)
        if self.offset - self.start > MAX_LINE:
            raise csv.Error(TOO_LONG)
        return line

    def return_to(self, offset: int, number: int) -> None:
        """Go on at the line behind the one with this number."""
        self.offset = self.start = self._block_end = offset
        self.number = number
        self._block = iter(())

    def end_of_line(self, offset: int) -> int:
        """Return the offset behind the line that begins at another."""
        content = self._content
        feed = content.find(b"\n", offset)
        last = len(content) - 1 if feed < 0 else feed
        carriage = content.find(b"\r", offset, last)
        return last + 1 if carriage < 0 or carriage == feed - 1 else carriage + 1

    def _next_of_next_block(self) -> bytes:
        content, begin = self._content, self._block_end
        if begin == len(content):
            raise StopIteration
        end = begin + MAX_LINE
        if end < len(content):
            feed = content.rfind(b"\n", begin, end)
            # A CR at the very end may be half of a CRLF.
            carriage = content.rfind(b"\r", begin, end - 1)
            end = max(feed, carriage) + 1 or self.end_of_line(begin)
        self._block_end = min(end, len(content))
        if self._block_end - begin > MAX_LINE:
            return content[begin : self._block_end]
        self._block = iter(content[begin : self._block_end].splitlines(keepends=True))
        return next(self._block)


class Records:
    """The records of a CSV file, as lists of cells."""

    def __init__(self, content: bytes) -> None:
        self.line = 1
        """Where the record that came last begins."""
        self._lines = Lines(content)
        self._returns = 0
        separator = self._find_separator()
        texts = map(bytes.decode, self._lines)
        self._reader = csv.reader(texts, delimiter=separator, strict=True)

    def _find_separator(self) -> str:
        """Return the separator, and stand before the header."""
        lines, offset = self._lines, self._lines.offset
        with suppress(csv.Error):  # which the header will raise again
            for line in islice(lines, 100):
                if found := SEPARATOR_LINE.fullmatch(line):
                    return ";" if found[1] == b";" else ","
                if not line.isspace():
                    lines.return_to(offset, 0)
                    header = QUOTED.sub("", line.decode("latin-1"))
                    return ";" if header.count(";") > header.count(",") else ","
                lines.start = lines.offset
        lines.return_to(offset, 0)
        return ","

    def __next__(self) -> list[str]:
        """Return the next record. ValueError with a sentence; ProblemError 400."""
        lines = self._lines
        start = lines.start = lines.offset
        self.line = lines.number + 1
        try:
            return next(self._reader)
        except UnicodeDecodeError:
            raise not_utf8(lines.number) from None
        except csv.Error as exc:
            raise ValueError(self._explain(str(exc), start)) from None

    def _explain(self, message: str, start: int) -> str:
        if "expected after" in message:
            return (
                "A closing quote stands before the end of a cell: a quote within a "
                "quoted cell is written twice."
            )
        if "unexpected end" not in message and self._lines.number == self.line:
            return TOO_LONG
        if self._returns < MAX_RETURNS:  # to see what else is wrong, without end
            self._returns += 1
            self._lines.return_to(self._lines.end_of_line(start), self.line)
        return UNCLOSED if "unexpected end" in message else UNCLOSED_OR_TOO_LONG
