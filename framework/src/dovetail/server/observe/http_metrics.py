"""Metrics of all HTTP requests: counts and durations by method, route and status."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from starlette.types import Scope

from dovetail.server.observe.counters import Counters
from dovetail.server.observe.request_records import RequestRecord

DURATIONS = (0.1, 0.5, 1.0)
FINE_DURATIONS = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5),
    *(3.0, 3.5, 4.0, 4.5, 5.0, 7.5, 10.0, 30.0, 60.0),
)
STATUSES = ("1xx", "2xx", "3xx", "4xx", "5xx")
METHODS = frozenset(("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"))
"""All other methods share one label, because clients can invent any number of them."""
WIDTH = len(STATUSES) + len(DURATIONS) + 2


class HttpMetrics:
    """Requests by method, handler and status, with the metric names and labels of vLLM's server."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._durations = counters.histogram(FINE_DURATIONS)

    def add(self, record: RequestRecord, scope: Scope) -> None:
        """Count a finished request. Its handler is the route's path, or ``none`` if no route matched."""
        seconds = time.monotonic() - record.received
        self._durations.observe(seconds)
        method = record.method if record.method in METHODS else "other"
        words = self._counters.named_slots(f"{method} {record.route or 'none'}", WIDTH)
        if words is not None:
            words[record.status // 100 - 1] += 1.0
            words[len(STATUSES) + bisect_left(DURATIONS, seconds)] += 1.0
            words[-1] += seconds

    def collect(self) -> Iterator[Metric]:
        """The metrics over all processes."""
        requests = CounterMetricFamily(
            "http_requests", "HTTP requests, by method, status and handler.", labels=["method", "status", "handler"]
        )
        durations = HistogramMetricFamily(
            "http_request_duration_seconds", "Seconds of HTTP requests, by handler.", labels=["method", "handler"]
        )
        for name, words in sorted(self._counters.sum_named().items()):
            method, handler = name.split(" ", 1)
            for status, count in zip(STATUSES, words, strict=False):
                if count:
                    requests.add_metric([method, status, handler], count)
            buckets = cumulative_buckets(DURATIONS, words[len(STATUSES) : -1])
            durations.add_metric([method, handler], buckets, words[-1])
        yield requests
        yield durations
        fine = HistogramMetricFamily("http_request_duration_highr_seconds", "Seconds of all HTTP requests.")
        fine.add_metric([], cumulative_buckets(FINE_DURATIONS, self._durations.counts()), self._durations.sum)
        yield fine


def cumulative_buckets(bounds: tuple[float, ...], counts: list[float]) -> list[tuple[str, float]]:
    """A histogram's buckets as Prometheus expects them: each includes all lower ones."""
    buckets: list[tuple[str, float]] = []
    total = 0.0
    for bound, count in zip((*map(str, map(float, bounds)), "+Inf"), counts, strict=True):
        total += count
        buckets.append((bound, total))
    return buckets
