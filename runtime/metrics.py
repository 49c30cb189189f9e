"""The metrics: requests counted in batches off their path, and their exposition."""

import asyncio
import operator
import secrets
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from itertools import accumulate, count, pairwise

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

from runtime.access_log import STDERR, AccessLog, RequestRecord
from runtime.workers import Worker
from storage.engine import Engine

FLUSH_SECONDS, IDLE_SECONDS = 0.02, 0.25
"""Seconds until the next flush, after one with requests and after one without. A flush
works up thousands of requests a second, and nothing else goes on meanwhile."""

# opentelemetry.io/docs/specs/semconv/http/http-metrics: advised boundaries, seconds
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
LABELS = ("http_request_method", "http_route", "http_response_status_code")


class MetricsSnapshot(msgspec.Struct):
    """The counts of a process, which add up with those of others."""

    durations: dict[tuple[str, str, str], list[float]]
    """By labels: the requests up to each bound, those above all, the sum of seconds."""
    totals: dict[str, int]

    def add(self, other: "MetricsSnapshot") -> None:
        """Add the counts of another process."""
        for labels, figures in other.durations.items():
            own = self.durations.get(labels, NO_DURATIONS)
            self.durations[labels] = list(map(operator.add, own, figures))
        self.totals = Counter(self.totals) + Counter(other.totals)


NO_DURATIONS = [0.0] * (len(BOUNDS) + 2)
KEPT_TOTALS = ("dropped", "log dropped", "units", "commits")
"""The totals that go on from those of a worker that has ended."""
ENCODER = msgspec.msgpack.Encoder()
DECODER = msgspec.msgpack.Decoder(MetricsSnapshot)


def count_durations(seconds: list[float]) -> list[float]:
    """Return the figures of some durations for a snapshot."""
    seconds.sort()
    places = [0, *(bisect_right(seconds, bound) for bound in BOUNDS), len(seconds)]
    return [*(upper - lower for lower, upper in pairwise(places)), sum(seconds)]


class Metrics(Collector):
    """Collects the records of requests, and counts and logs them in batches."""

    def __init__(self, version: str, access_log: AccessLog) -> None:
        self.version = version
        self.access_log = access_log
        self.in_flight = 0
        self.listeners = 0
        """How many of them follow the feed, and end only with their clients."""
        self.requests: list[RequestRecord] = []
        self.counts = MetricsSnapshot({}, {})
        """The requests of this process and of the worker whose place it took."""
        self.engine: Engine | None = None
        self.worker: Worker | None = None
        self._flushing: asyncio.TimerHandle | None = None
        self.record_request: Callable[[RequestRecord], None] = self.requests.append
        """Keeps the record of a request until the next flush."""
        self.request_ids = map(f"{secrets.token_hex(5)}-{{:x}}".format, count(1))
        """Ids for requests that bring none."""

    def start(self) -> None:
        """Flush from now on, again and again."""
        self.access_log.writer.start()
        self._flush_again()

    def _flush_again(self) -> None:
        seconds = FLUSH_SECONDS if self.requests else IDLE_SECONDS
        loop = asyncio.get_running_loop()
        self._flushing = loop.call_later(seconds, self._flush_again)
        self.flush()

    def flush(self) -> None:
        """Count the recorded requests, log them, and share the counts."""
        requests = self.requests.copy()
        self.requests.clear()
        took: defaultdict[tuple[str, str, int], list[float]] = defaultdict(list)
        for _, _, method, route, status, seconds, *_ in requests:
            took[method, route, status].append(seconds)
        durations = {
            (method, route, str(status)): count_durations(seconds_of)
            for (method, route, status), seconds_of in took.items()
        }
        self.counts.add(MetricsSnapshot(durations, {}))
        self.access_log.write(requests)
        if self.worker is not None:
            record = ENCODER.encode(self._snapshot())
            self.worker.metrics.write(self.worker.number, record)

    def join(self, worker: Worker) -> None:
        """Add up with other workers, and go on from the last one with this number."""
        self.worker = worker
        self.access_log.writer.whole_lines = STDERR.whole_lines = True
        if record := worker.metrics.read(worker.number):
            last = DECODER.decode(record)
            last.totals = {name: last.totals.get(name, 0) for name in KEPT_TOTALS}
            self.counts.add(last)
        self.flush()

    def _snapshot(self) -> MetricsSnapshot:
        totals = Counter({"in_flight": self.in_flight, "listeners": self.listeners})
        totals["dropped"] = self.access_log.writer.dropped
        totals["log dropped"] = STDERR.dropped
        if self.engine is not None:
            totals["units"], totals["commits"], waiting, *_ = self.engine.stats()
            totals.update({f"waiting {queue}": n for queue, n in waiting.items()})
        totals.update(self.counts.totals)
        return MetricsSnapshot(self.counts.durations.copy(), totals)

    def text(self) -> bytes:
        """Return the metrics in the text format of Prometheus."""
        self.flush()
        registry = CollectorRegistry()
        registry.register(self)
        return generate_latest(registry)

    def describe(self) -> list[Metric]:
        """Return no metric: a registry asks for their names when it registers this."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of all workers and of the database."""
        snapshot = self._snapshot()
        if self.worker is not None:
            for record in self.worker.metrics.others(self.worker.number):
                snapshot.add(DECODER.decode(record))
        totals = Counter(snapshot.totals)
        durations = HistogramMetricFamily(
            "http_server_request_duration_seconds",
            "Time from the head of a request to the end of its answer.",
            labels=LABELS,
        )
        bounds = (*map(str, BOUNDS), "+Inf")
        for labels, (*counts, total) in snapshot.durations.items():
            buckets = list(zip(bounds, accumulate(counts), strict=True))
            durations.add_metric(labels, buckets, total)
        yield durations
        name = "http_server_active_requests"
        yield GaugeMetricFamily(name, "Requests being answered.", totals["in_flight"])
        text = "Requests among them that follow the feed."
        yield GaugeMetricFamily("feed_listeners", text, totals["listeners"])
        name = "access_log_lines_dropped"
        text = "Lines that stdout did not take."
        yield CounterMetricFamily(name, text, totals["dropped"])
        text = "Lines that stderr did not take."
        yield CounterMetricFamily("log_lines_dropped", text, totals["log dropped"])
        build = InfoMetricFamily("customer_purchase_server_build", "What is running.")
        build.add_metric((), {"version": self.version})
        yield build
        if self.engine is not None:
            yield from _engine_metrics(self.engine, totals)

    def close(self) -> None:
        """Count and log the last requests."""
        if self._flushing is not None:
            self._flushing.cancel()
        self.flush()
        self.access_log.writer.close()


def _engine_metrics(engine: Engine, totals: Counter[str]) -> Iterator[Metric]:
    text = "Units of work committed."
    yield CounterMetricFamily("database_units_written", text, totals["units"])
    text = "Commits, each of one unit or more."
    yield CounterMetricFamily("database_commits", text, totals["commits"])
    text = "Units of work that wait."
    waiting = GaugeMetricFamily("database_units_waiting", text, labels=("lane",))
    stats = engine.stats()
    for queue in stats.waiting:
        waiting.add_metric((queue,), totals[f"waiting {queue}"])
    yield waiting
    text = "Bytes of the database on disk."
    yield GaugeMetricFamily("database_size_bytes", text, stats.size)
    if stats.last_backup is not None:
        text = "When the database was backed up last, seconds since 1970."
        name = "database_last_backup_timestamp_seconds"
        yield GaugeMetricFamily(name, text, stats.last_backup)
    database = InfoMetricFamily("database", "The database engine.")
    database.add_metric((), {"version": engine.name})
    yield database
