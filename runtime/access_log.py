"""Log lines, as JSON or text: of errors on stderr, of requests on stdout."""

import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from math import ceil
from queue import SimpleQueue
from select import PIPE_BUF, select
from threading import Thread
from typing import Any, TextIO

import msgspec

ENCODER = msgspec.json.Encoder()
CLOSE_SECONDS = 1.0
"""How long a stop waits for a stream to take the last lines."""
MAX_BATCHES = 100
"""Batches of lines kept while a stream takes none; further lines are dropped."""
UNSEEN = re.compile("[^!-~]")
"""What a terminal might take for more than a character."""


class JSONFormatter(logging.Formatter):
    """Formats a log record as one JSON object in one line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, with the traceback of an exception in it."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        if request_id := getattr(record, "request_id", None):
            line["id"] = request_id
        if record.exc_info and record.exc_info[1]:
            line["traceback"] = "".join(traceback.format_exception(record.exc_info[1]))
        return ENCODER.encode(line).decode()


class TextFormatter(logging.Formatter):
    """Formats a log record for people: the message, its level unless that is info."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and the traceback of an exception under it."""
        level = (
            "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        )
        request_id = getattr(record, "request_id", None)
        line = f"{level}{record.getMessage()}{f' [{request_id}]' if request_id else ''}"
        if record.exc_info and record.exc_info[1]:
            line += "\n" + "".join(traceback.format_exception(record.exc_info[1]))
        return line.rstrip("\n")


RequestRecord = tuple[float, str, str, str, int, float, str, str]
"""A finished request: time, id, method, route, status, seconds, caller, target."""


def format_text(requests: Sequence[RequestRecord]) -> bytes:
    """Return the access log's lines for people: paths as they came, no query."""
    lines = []
    for _, request_id, method, _, status, seconds, caller, target in requests:
        path = UNSEEN.sub("?", target.partition("?")[0][:200]) or "-"
        more = f" {caller}" if caller else ""
        more += f" [{request_id}]" if status >= 500 else ""
        lines.append(f"{method} {path} {status} {ceil(1000 * seconds)} ms{more}\n")
    return "".join(lines).encode()


def format_lines(requests: Sequence[RequestRecord]) -> bytes:
    """Return the access log's lines: never a body, a name, an address or a token."""
    # Put together as text, since no value has a quote or a backslash, and this is the
    # largest part of the cost of logging and counting a request.
    lines, second, date = [], "", ""
    for ended, request_id, method, route, status, seconds, caller, _ in requests:
        time = f"{ended:.6f}"
        if time[:-7] != second:
            second = time[:-7]
            date = datetime.fromtimestamp(int(second), UTC).isoformat()[:19]
        lines.append(
            f'{{"time":"{date}{time[-7:]}Z","id":"{request_id}","method":"{method}",'
            f'"route":"{route}","status":{status},"duration":{seconds:.6f},'
            f'"caller":"{caller}"}}\n'
        )
    return "".join(lines).encode()


class LineWriter:
    """Writes lines to a stream; between `start` and `close` on a thread of its own.

    A stuck stream must stop neither the event loop nor, so the thread is a daemon, the
    exit. The queue and the count of lost lines are all that the two threads share.
    """

    def __init__(self, stream: Callable[[], TextIO]) -> None:
        self.stream = stream
        self._skipped = 0
        self._lost = 0
        """Lines that could not be written; counted by the thread alone."""
        self.whole_lines = False
        """Whether several processes write to the stream, whole lines at a time."""
        self._batches: SimpleQueue[bytes] = SimpleQueue()
        self._thread: Thread | None = None

    @property
    def dropped(self) -> int:
        """Return the number of lines that the stream did not take."""
        return self._skipped + self._lost

    def start(self) -> None:
        """Start the thread."""
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def write(self, lines: bytes) -> None:
        """Queue lines, or write what the stream takes at once; drop the others."""
        if self._thread is None:
            self._write_now(lines)
        elif self._batches.qsize() >= MAX_BATCHES:
            self._skipped += lines.count(b"\n")
        else:
            self._batches.put(lines)

    def _write_now(self, lines: bytes) -> None:
        with suppress(OSError, ValueError):  # nobody reads it, or it is closed
            file = self.stream().fileno()
            while lines and select([], [file], [], 0)[1]:  # takes PIPE_BUF: pipe(7)
                lines = lines[os.write(file, lines[:PIPE_BUF]) :]
        self._skipped += lines.count(b"\n")

    def _run(self) -> None:
        while lines := self._batches.get():
            try:
                while lines:
                    part = self._part(lines)
                    lines = lines[os.write(self.stream().fileno(), part) :]
            except (OSError, ValueError):  # nobody reads it any more; serving goes on
                self._lost += lines.count(b"\n")

    def _part(self, lines: bytes) -> bytes:
        """Return the bytes of one write; where several processes write, whole lines."""
        # Such a write is not mixed with others (pipe(7)).
        if not self.whole_lines:
            return lines
        return lines[: lines.rfind(b"\n", 0, PIPE_BUF) + 1] or lines

    def close(self) -> None:
        """Write the queued lines."""
        if self._thread is not None:
            self._batches.put(b"")
            self._thread.join(CLOSE_SECONDS)
            if not self._thread.is_alive():
                self._thread = None


STDERR = LineWriter(lambda: sys.stderr)
"""The log of this process."""


class LogHandler(logging.Handler):
    """Hands log records to the writer of stderr."""

    def __init__(self, log_format: str) -> None:
        super().__init__()
        is_text = log_format == "text"
        self.setFormatter(TextFormatter() if is_text else JSONFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        STDERR.write(f"{self.format(record)}\n".encode("utf-8", "replace"))


def format_for(stream: TextIO, log_format: str) -> str:
    """Return `json` or `text` for a setting that may be `auto`."""
    if log_format != "auto":
        return log_format
    return "text" if stream.isatty() else "json"


class AccessLog:
    """Writes a line for each request, but for the successes of quiet routes."""

    def __init__(
        self,
        enabled: bool,
        log_format: str = "json",
        quiet: frozenset[str] = frozenset(),
    ) -> None:
        self.enabled = enabled
        self.shows_targets = log_format == "text"
        self.quiet = quiet
        self.writer = LineWriter(lambda: sys.stdout)
        self._format = format_text if self.shows_targets else format_lines

    def write(self, requests: Sequence[RequestRecord]) -> None:
        """Write the lines of requests."""
        if self.enabled:
            quiet = self.quiet
            told = [one for one in requests if one[3] not in quiet or one[4] >= 400]
            if told:
                self.writer.write(self._format(told))
