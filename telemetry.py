"""What an operator sees: JSON lines for errors and requests, and the metrics."""

import asyncio
import logging
import os
import sys
import traceback
from bisect import bisect_left
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import accumulate
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

ENCODER = msgspec.json.Encoder()
FLUSH_SECONDS = 0.1
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


class AccessLine(msgspec.Struct):
    """A request in the access log: never a body, a name, an address or a token."""

    time: datetime
    id: str
    method: str
    route: str
    status: int
    duration: float
    caller: str


def _access_line(request: Request) -> AccessLine:
    ended, request_id, method, route, status, seconds, caller = request
    time = datetime.fromtimestamp(ended, UTC)
    return AccessLine(
        time, request_id, method, route, status, round(seconds, 6), caller
    )


class Histogram(msgspec.Struct):
    """How many requests took how long."""

    counts: list[int] = msgspec.field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    sum: float = 0.0

    def add(self, other: "Histogram") -> None:
        """Add what another one counted."""
        self.counts = list(map(add, self.counts, other.counts))
        self.sum += other.sum

    def buckets(self) -> list[tuple[str, float]]:
        """Return the cumulative counts by their upper bounds."""
        bounds = (*map(str, BOUNDS), "+Inf")
        return list(zip(bounds, accumulate(self.counts), strict=True))


class Counts(msgspec.Struct):
    """What a process has counted, in a form that adds up with that of others."""

    durations: dict[tuple[str, str, str], Histogram]
    in_flight: int
    dropped: int
    units: int
    commits: int
    waiting: dict[str, int]

    def add(self, other: "Counts", running: bool) -> None:
        """Add what another process counted, and what it is at if it still runs."""
        for key, histogram in other.durations.items():
            self.durations.setdefault(key, Histogram()).add(histogram)
        self.dropped += other.dropped
        self.units += other.units
        self.commits += other.commits
        if running:
            self.in_flight += other.in_flight
            for lane, number in other.waiting.items():
                self.waiting[lane] += number


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
        self._unwritten = 0
        self._writer = ThreadPoolExecutor(1)  # a stuck stdout must not stop the loop
        self._flushing: asyncio.TimerHandle | None = None

    def note(self, request: Request) -> None:
        """Keep a request until the next flush."""
        self.requests.append(request)
        if self._flushing is None:
            loop = asyncio.get_running_loop()
            self._flushing = loop.call_later(FLUSH_SECONDS, self.flush)

    def flush(self) -> None:
        """Count the requests that were noted, and hand their lines to the writer."""
        self._flushing = None
        requests, self.requests = self.requests, []
        for _, _, method, route, status, seconds, _ in requests:
            key = (method, route, str(status))
            histogram = self.durations.get(key)
            if histogram is None:
                histogram = self.durations[key] = Histogram()
            histogram.counts[bisect_left(BOUNDS, seconds)] += 1
            histogram.sum += seconds
        if self.access_log and requests:
            self._write(requests)

    def _write(self, requests: list[Request]) -> None:
        if self._unwritten >= MAX_BATCHES:
            self.dropped += len(requests)
            return
        self._unwritten += 1
        lines = ENCODER.encode_lines([_access_line(request) for request in requests])
        self._writer.submit(self._print, lines)

    def _print(self, lines: bytes) -> None:
        try:
            while lines:
                lines = lines[os.write(sys.stdout.fileno(), lines) :]
        except OSError:  # nobody reads stdout any more; serving goes on
            self.dropped += lines.count(b"\n")
        finally:
            self._unwritten -= 1

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
        """Return the metrics of this process and of its database."""
        durations = HistogramMetricFamily(
            "http_server_request_duration_seconds",
            "Time from the head of a request to the end of its answer.",
            labels=LABELS,
        )
        for key, histogram in self.durations.items():
            durations.add_metric(key, histogram.buckets(), histogram.sum)
        yield durations
        yield GaugeMetricFamily(
            "http_server_active_requests", "Requests being answered.", self.in_flight
        )
        yield CounterMetricFamily(
            "access_log_lines_dropped", "Lines that stdout did not take.", self.dropped
        )
        build = InfoMetricFamily("customer_purchase_server_build", "What is running.")
        build.add_metric((), {"version": self.version})
        yield build
        if self.engine is not None:
            yield from _engine_metrics(self.engine)

    def close(self) -> None:
        """Write what was noted."""
        self.flush()
        self._writer.shutdown()


def _engine_metrics(engine: db.Engine) -> Iterator[Metric]:
    measures = engine.measures()
    yield CounterMetricFamily(
        "database_units_written", "Units of work committed.", measures.units
    )
    yield CounterMetricFamily(
        "database_commits", "Commits, each of one unit or more.", measures.commits
    )
    waiting = GaugeMetricFamily(
        "database_units_waiting", "Units of work that wait.", labels=("lane",)
    )
    for lane, number in measures.waiting.items():
        waiting.add_metric((lane,), number)
    yield waiting
    yield GaugeMetricFamily(
        "database_size_bytes", "Bytes of the database on disk.", measures.size
    )
    database = InfoMetricFamily("database", "The database engine.")
    database.add_metric((), {"version": engine.name})
    yield database
