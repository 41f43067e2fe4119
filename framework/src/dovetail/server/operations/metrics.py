"""``GET /metrics``: for Prometheus, under our names and under vLLM's, so that its dashboards work."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from fastapi import APIRouter, Request, Response
from prometheus_client import GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector, CollectorRegistry

from dovetail.api.errors import DovetailError
from dovetail.engine.messages import STEP_SIZE_BUCKETS, Overview
from dovetail.server.context import ServerContext
from dovetail.server.http.openapi import ERROR_RESPONSES, ErrorResponses
from dovetail.server.observe.http_metrics import HttpMetrics, cumulative_buckets

logger = logging.getLogger("dovetail.server")

OWN, VLLM = "dovetail:", "vllm:"
LABELS = ("model_name", "engine")
ENGINE_SECONDS = 5.0
"""How long to wait for a busy engine. Prometheus itself waits 10 s by default."""


@dataclass(frozen=True)
class EngineMetric:
    """A metric that the engine provides.

    Attributes:
        name: without the prefix, and without the ``_total`` of counters.
        legacy_names: earlier names of the metric in vLLM.
    """

    name: str
    kind: Literal["gauge", "counter"]
    help: str
    read: Callable[[Overview], float]
    legacy_names: tuple[str, ...] = ()


ENGINE_METRICS = (
    EngineMetric("num_requests_running", "gauge", "Sequences that run.", lambda o: o.stats.running),
    EngineMetric("num_requests_waiting", "gauge", "Sequences that wait.", lambda o: o.stats.waiting),
    EngineMetric(
        "kv_cache_usage_perc",
        "gauge",
        "Share of the KV cache that sequences hold, 0 to 1.",
        lambda o: o.stats.kv_usage,
        ("gpu_cache_usage_perc",),
    ),
    EngineMetric(
        "prefix_cache_queries",
        "counter",
        "Tokens that were looked up in the prefix cache.",
        lambda o: o.stats.prefix_queries,
        ("gpu_prefix_cache_queries",),
    ),
    EngineMetric(
        "prefix_cache_hits",
        "counter",
        "Tokens that were found in the prefix cache.",
        lambda o: o.stats.prefix_hits,
        ("gpu_prefix_cache_hits",),
    ),
    EngineMetric(
        "num_preemptions",
        "counter",
        "Times that a sequence lost its place in the cache.",
        lambda o: o.stats.preemptions,
    ),
    EngineMetric("prompt_tokens", "counter", "Tokens of prompts that were computed.", lambda o: o.stats.prompt_tokens),
    EngineMetric("generation_tokens", "counter", "Tokens that were sampled.", lambda o: o.stats.output_tokens),
    EngineMetric("spec_decode_num_drafts", "counter", "Guesses of speculative decoding.", lambda o: o.num_drafts),
    EngineMetric(
        "spec_decode_num_draft_tokens", "counter", "Tokens that were guessed.", lambda o: o.stats.num_draft_tokens
    ),
    EngineMetric(
        "spec_decode_num_accepted_tokens", "counter", "Tokens guessed rightly.", lambda o: o.stats.num_accepted_tokens
    ),
)


class MetricsCollector(Collector):
    """Collects all metrics for one scrape.

    Args:
        overview: the engine's; None if there is no engine at the moment.
    """

    def __init__(self, context: ServerContext, http_metrics: HttpMetrics, overview: Overview | None) -> None:
        self._context = context
        self._http_metrics = http_metrics
        self._overview = overview
        self._labels = [context.model_names[0], "0"]

    def collect(self) -> Iterator[Metric]:
        yield from self._collect_prefixed(OWN)
        if not self._context.settings.disable_vllm_metrics:
            yield from self._collect_prefixed(VLLM)
        yield from self._http_metrics.collect()
        yield from PROCESS.collect()

    def _collect_prefixed(self, prefix: str) -> Iterator[Metric]:
        if self._overview is not None:
            yield from self._collect_engine(self._overview, prefix)
        finished = CounterMetricFamily(
            prefix + "request_success", "Sequences that ended, by reason.", labels=(*LABELS, "finished_reason")
        )
        for reason, counter in self._context.generation_metrics.finished.items():
            finished.add_metric([*self._labels, reason], counter.value)
        yield finished
        for each in self._context.generation_metrics.distributions:
            buckets = cumulative_buckets(each.histogram.bounds, each.histogram.counts())
            for name in _names(each.name, each.legacy_names, prefix):
                family = HistogramMetricFamily(name, each.help, labels=LABELS)
                family.add_metric(self._labels, buckets, each.histogram.sum)
                yield family

    def _collect_engine(self, overview: Overview, prefix: str) -> Iterator[Metric]:
        for metric in ENGINE_METRICS:
            kind = GaugeMetricFamily if metric.kind == "gauge" else CounterMetricFamily
            for name in _names(metric.name, metric.legacy_names, prefix):
                family = kind(name, metric.help, labels=LABELS)
                family.add_metric(self._labels, metric.read(overview))
                yield family
        steps = HistogramMetricFamily(prefix + "iteration_tokens_total", "Tokens of the engine's steps.", labels=LABELS)
        steps.add_metric(
            self._labels, cumulative_buckets(STEP_SIZE_BUCKETS, list(overview.steps.counts)), overview.steps.total
        )
        yield steps
        facts = {**overview.cache, "engine": "0"}
        cache = GaugeMetricFamily(prefix + "cache_config_info", "How the KV cache is set up.", labels=list(facts))
        cache.add_metric(list(facts.values()), 1)
        yield cache
        if overview.max_loras:
            names = [str(overview.max_loras), ",".join(overview.waiting_adapters), ",".join(overview.running_adapters)]
            adapters = GaugeMetricFamily(
                prefix + "lora_requests_info",
                "The LoRA adapters in use; the value is the time.",
                labels=("max_lora", "waiting_lora_adapters", "running_lora_adapters"),
            )
            adapters.add_metric(names, time.time())
            yield adapters


def _names(name: str, legacy_names: Iterable[str], prefix: str) -> list[str]:
    return [prefix + each for each in ((name, *legacy_names) if prefix == VLLM else (name,))]


def _process_registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    return registry


PROCESS = _process_registry()
"""The client library's metrics of this process and its interpreter."""


async def fetch_overview(context: ServerContext) -> Overview | None:
    """The engine's overview; None if it does not answer in time.

    The engine must be asked, because its last statistics may be older here than those that another process has shown
    already. A counter that decreases would look like a restart.
    """
    if not context.engine.alive:
        return None
    try:
        return await asyncio.wait_for(context.engine.overview(), ENGINE_SECONDS)
    except (DovetailError, TimeoutError) as error:
        logger.warning("/metrics is without the engine's figures: %s", error or "it did not answer in time")
        return None


def router(context: ServerContext, http_metrics: HttpMetrics) -> APIRouter:
    """The metrics route."""
    routes = APIRouter(tags=["status"], responses=ERROR_RESPONSES)
    content = {kind: {"schema": {"type": "string"}} for kind in ("text/plain", "application/openmetrics-text")}
    answers: ErrorResponses = {200: {"description": "The figures", "content": content}}

    @routes.get("/metrics", summary="Figures for Prometheus", response_class=Response, responses=answers)
    async def metrics(request: Request) -> Response:
        encode, media_type = choose_encoder(request.headers.get("accept", ""))
        collector = MetricsCollector(context, http_metrics, await fetch_overview(context))
        # Some milliseconds of formatting, in which streams would stand still.
        return Response(await context.run_in_worker(lambda: encode(collector)), headers={"content-type": media_type})

    return routes
