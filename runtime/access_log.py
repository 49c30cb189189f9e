"""Log lines as JSON: one for each error on stderr, one for each request on stdout."""

import logging
import os
import sys
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from queue import SimpleQueue
from select import PIPE_BUF
from threading import Thread
from typing import Any

import msgspec

ENCODER = msgspec.json.Encoder()
CLOSE_SECONDS = 1.0
"""How long a stop waits for stdout to take the last lines."""
MAX_BATCHES = 100
"""Batches of access lines kept while stdout takes none; further lines are dropped."""


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


RequestRecord = tuple[float, str, str, str, int, float, str]
"""A finished request: time, id, method, route, status, seconds, caller."""


def format_lines(requests: Sequence[RequestRecord]) -> bytes:
    """Return the access log's lines: never a body, a name, an address or a token."""
    # Put together as text, since no value has a quote or a backslash, and this is the
    # largest part of the cost of logging and counting a request.
    lines, second, date = [], "", ""
    for ended, request_id, method, route, status, seconds, caller in requests:
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


class AccessLog:
    """Writes lines to stdout on a thread of its own.

    A stuck stdout must stop neither the event loop nor, so the thread is a daemon, the
    exit. The queue and the count of lost lines are all that the two threads share.
    """

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled
        self._skipped = 0
        self._lost = 0
        """Lines that could not be written; counted by the thread alone."""
        self.whole_lines = False
        """Whether several processes write to stdout, whole lines at a time."""
        self._batches: SimpleQueue[bytes] = SimpleQueue()
        self._thread = Thread(target=self._run, daemon=True)

    @property
    def dropped(self) -> int:
        """Return the number of lines that stdout did not take."""
        return self._skipped + self._lost

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def write(self, requests: Sequence[RequestRecord]) -> None:
        """Queue the lines of requests, or drop them while stdout is stuck."""
        if not self.enabled or not requests:
            return
        if self._batches.qsize() >= MAX_BATCHES:
            self._skipped += len(requests)
        else:
            self._batches.put(format_lines(requests))

    def _run(self) -> None:
        while lines := self._batches.get():
            try:
                while lines:
                    lines = lines[os.write(sys.stdout.fileno(), self._part(lines)) :]
            except OSError:  # nobody reads stdout any more; serving goes on
                self._lost += lines.count(b"\n")

    def _part(self, lines: bytes) -> bytes:
        """Return the bytes of one write; where several processes write, whole lines."""
        # Such a write is not mixed with others (pipe(7)).
        if not self.whole_lines:
            return lines
        return lines[: lines.rfind(b"\n", 0, PIPE_BUF) + 1] or lines

    def close(self) -> None:
        """Write the queued lines."""
        self._batches.put(b"")
        if self._thread.is_alive():
            self._thread.join(CLOSE_SECONDS)
