"""What an operator sees: JSON lines for errors and requests, and the metrics."""

import asyncio
import logging
import operator
import os
import secrets
import sys
import traceback
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import accumulate, count
from queue import SimpleQueue
from select import PIPE_BUF
from threading import Thread
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

import db
from workers import Worker

ENCODER = msgspec.json.Encoder()
FLUSH_SECONDS, IDLE_SECONDS = 0.02, 0.25
"""How long until the next flush, after one that had something to do and one that had
not. A flush works up thousands of requests a second, and nothing else goes on then."""
CLOSE_SECONDS = 1.0
"""How long a stop waits for stdout to take the last lines."""
MAX_BATCHES = 100
"""Batches of access lines kept while stdout takes none; further lines are dropped."""

# opentelemetry.io/docs/specs/semconv/http/http-metrics: advised boundaries, seconds
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
LABELS = ("http_request_method", "http_route", "http_response_status_code")


class JSONLines(logging.Formatter):
    """Formats a log record as one JSON object in one line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, the traceback in it when there is one."""
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


Request = tuple[float, str, str, str, int, float, str]
"""A request that was answered: when, id, method, route, status, seconds, caller."""


def access_lines(requests: list[Request]) -> bytes:
    """Return the access log's lines: never a body, a name, an address or a token.

    Put together as text, for all that goes in is free of quotes and backslashes, and
    this is the dearest thing that a request pays for being seen.
    """
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


class Histogram(msgspec.Struct):
    """How many requests took how long."""

    counts: list[int] = msgspec.field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    sum: float = 0.0

    def add(self, other: "Histogram") -> None:
        """Add what another one counted."""
        self.counts = list(map(operator.add, self.counts, other.counts))
        self.sum += other.sum

    def count(self, seconds: list[float]) -> None:
        """Count what took so many seconds."""
        seconds.sort()
        below = 0
        for bucket, bound in enumerate(BOUNDS):
            until = bisect_right(seconds, bound, below)
            self.counts[bucket] += until - below
            below = until
        self.counts[-1] += len(seconds) - below
        self.sum += sum(seconds)

    def buckets(self) -> list[tuple[str, float]]:
        """Return the cumulative counts by their upper bounds."""
        bounds = (*map(str, BOUNDS), "+Inf")
        return list(zip(bounds, accumulate(self.counts), strict=True))


class Counts(msgspec.Struct):
    """What a process has counted, in a form that adds up with that of others."""

    durations: dict[tuple[str, str, str], Histogram] = {}
    in_flight: int = 0
    dropped: int = 0
    units: int = 0
    commits: int = 0
    waiting: dict[str, int] = {}

    def add(self, other: "Counts") -> None:
        """Add what another process counted."""
        for key, histogram in other.durations.items():
            self.durations.setdefault(key, Histogram()).add(histogram)
        self.in_flight += other.in_flight
        self.dropped += other.dropped
        self.units += other.units
        self.commits += other.commits
        for lane, number in other.waiting.items():
            self.waiting[lane] = self.waiting.get(lane, 0) + number


RECORDS = msgspec.msgpack.Encoder()
RECORD = msgspec.msgpack.Decoder(Counts)


class Telemetry(Collector):
    """Keeps what the request path notes, and works it up off that path in batches."""

    def __init__(self, version: str, access_log: bool) -> None:
        self.version = version
        self.access_log = access_log
        self.in_flight = 0
        self.dropped = 0
        self.requests: list[Request] = []
        self.durations: dict[tuple[str, str, str], Histogram] = {}
        self.engine: db.Engine | None = None
        self.worker: Worker | None = None
        self.before = Counts()
        """What the workers had counted whose place this one took."""
        self._unwritten = 0
        # A stuck stdout must stop neither the loop nor, being a daemon, the exit.
        self._batches: SimpleQueue[bytes] = SimpleQueue()
        self._writer = Thread(target=self._print, daemon=True)
        self._flushing: asyncio.TimerHandle | None = None
        self.note: Callable[[Request], None] = self.requests.append
        """Keeps a request until the next flush."""
        self.ids = map(f"{secrets.token_hex(5)}-{{:x}}".format, count(1))
        """Ids for requests that bring none."""

    def start(self) -> None:
        """Flush from now on, again and again."""
        self._writer.start()
        self._flush_again()

    def _flush_again(self) -> None:
        seconds = FLUSH_SECONDS if self.requests else IDLE_SECONDS
        loop = asyncio.get_running_loop()
        self._flushing = loop.call_later(seconds, self._flush_again)
        self.flush()

    def flush(self) -> None:
        """Count the requests that were noted, and hand their lines to the writer."""
        requests = self.requests.copy()
        self.requests.clear()
        took: defaultdict[tuple[str, str, int], list[float]] = defaultdict(list)
        for _, _, method, route, status, seconds, _ in requests:
            took[method, route, status].append(seconds)
        for (method, route, status), seconds_of in took.items():
            key = method, route, str(status)
            self.durations.setdefault(key, Histogram()).count(seconds_of)
        if self.access_log and requests:
            self._write(requests)
        if self.worker is not None:
            record = RECORDS.encode(self._counts())
            self.worker.board.post(self.worker.number, record)

    def join(self, worker: Worker) -> None:
        """Add up with other workers, and go on where the last in this place ended."""
        self.worker = worker
        if record := worker.board.read(worker.number):
            self.before = RECORD.decode(record)
            self.before.in_flight = 0
            self.before.waiting.clear()
        self.flush()

    def _counts(self) -> Counts:
        own = Counts(self.durations, self.in_flight, self.dropped)
        if self.engine is not None:
            own.units, own.commits, own.waiting, _ = self.engine.measures()
        counts = Counts()
        counts.add(self.before)
        counts.add(own)
        return counts

    def _counts_of_all(self) -> Counts:
        counts = self._counts()
        if self.worker is not None:
            for record in self.worker.board.others(self.worker.number):
                counts.add(RECORD.decode(record))
        return counts

    def _write(self, requests: list[Request]) -> None:
        if self._unwritten >= MAX_BATCHES:
            self.dropped += len(requests)
            return
        self._unwritten += 1
        lines = access_lines(requests)
        self._batches.put(lines)

    def _print(self) -> None:
        while lines := self._batches.get():
            try:
                while lines:
                    lines = lines[os.write(sys.stdout.fileno(), self._part(lines)) :]
            except OSError:  # nobody reads stdout any more; serving goes on
                self.dropped += lines.count(b"\n")
            self._unwritten -= 1

    def _part(self, lines: bytes) -> bytes:
        """Return what one write takes: of several workers, whole lines at a time."""
        if self.worker is None:
            return lines
        return lines[: lines.rfind(b"\n", 0, PIPE_BUF) + 1] or lines  # pipe(7)

    def text(self) -> bytes:
        """Return the metrics in the text format of Prometheus."""
        self.flush()
        registry = CollectorRegistry()
        registry.register(self)
        return generate_latest(registry)

    def describe(self) -> list[Metric]:
        """Name nothing in advance: registering asks."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Return the metrics of this process, of its fellows and of the database."""
        counts = self._counts_of_all()
        durations = HistogramMetricFamily(
            "http_server_request_duration_seconds",
            "Time from the head of a request to the end of its answer.",
            labels=LABELS,
        )
        for key, histogram in counts.durations.items():
            durations.add_metric(key, histogram.buckets(), histogram.sum)
        yield durations
        yield GaugeMetricFamily(
            "http_server_active_requests", "Requests being answered.", counts.in_flight
        )
        yield CounterMetricFamily(
            "access_log_lines_dropped",
            "Lines that stdout did not take.",
            counts.dropped,
        )
        build = InfoMetricFamily("customer_purchase_server_build", "What is running.")
        build.add_metric((), {"version": self.version})
        yield build
        if self.engine is not None:
            yield from _engine_metrics(self.engine, counts)

    def close(self) -> None:
        """Write what was noted."""
        if self._flushing is not None:
            self._flushing.cancel()
        self.flush()
        self._batches.put(b"")
        if self._writer.is_alive():
            self._writer.join(CLOSE_SECONDS)


def _engine_metrics(engine: db.Engine, counts: Counts) -> Iterator[Metric]:
    yield CounterMetricFamily(
        "database_units_written", "Units of work committed.", counts.units
    )
    yield CounterMetricFamily(
        "database_commits", "Commits, each of one unit or more.", counts.commits
    )
    waiting = GaugeMetricFamily(
        "database_units_waiting", "Units of work that wait.", labels=("lane",)
    )
    for lane, number in counts.waiting.items():
        waiting.add_metric((lane,), number)
    yield waiting
    yield GaugeMetricFamily(
        "database_size_bytes", "Bytes of the database on disk.", engine.measures().size
    )
    database = InfoMetricFamily("database", "The database engine.")
    database.add_metric((), {"version": engine.name})
    yield database
