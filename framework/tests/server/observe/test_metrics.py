"""``/metrics``: its forms, what it counts, and the names that dashboards for vLLM ask for."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as parse_text
from server_fakes import FakeEngine, serving

from dovetail.engine.messages import EngineStats, Overview, StepSizeHistogram
from dovetail.engine.request.outputs import Delta
from dovetail.engine.request.params import SamplingParams
from dovetail.server.generation_job import Job
from dovetail.server.observe.counters import Counters
from dovetail.server.observe.generation_metrics import GenerationMetrics, token_buckets
from dovetail.server.observe.request_records import JobObserver
from dovetail.server.settings import ServerSettings

OPEN = {"accept": "application/openmetrics-text; version=1.0.0"}

# Types as vLLM 0.26 declares them, with the names that it had for the same before.
VLLM = {
    "num_requests_running": "gauge",
    "num_requests_waiting": "gauge",
    "kv_cache_usage_perc": "gauge",
    "gpu_cache_usage_perc": "gauge",
    "prefix_cache_queries": "counter",
    "prefix_cache_hits": "counter",
    "gpu_prefix_cache_queries": "counter",
    "gpu_prefix_cache_hits": "counter",
    "num_preemptions": "counter",
    "prompt_tokens": "counter",
    "generation_tokens": "counter",
    "request_success": "counter",
    "spec_decode_num_drafts": "counter",
    "spec_decode_num_draft_tokens": "counter",
    "spec_decode_num_accepted_tokens": "counter",
    "cache_config_info": "gauge",
    "time_to_first_token_seconds": "histogram",
    "inter_token_latency_seconds": "histogram",
    "time_per_output_token_seconds": "histogram",
    "request_time_per_output_token_seconds": "histogram",
    "e2e_request_latency_seconds": "histogram",
    "request_queue_time_seconds": "histogram",
    "request_prefill_time_seconds": "histogram",
    "request_decode_time_seconds": "histogram",
    "request_inference_time_seconds": "histogram",
    "request_prompt_tokens": "histogram",
    "request_generation_tokens": "histogram",
    "request_max_num_generation_tokens": "histogram",
    "request_prefill_kv_computed_tokens": "histogram",
    "request_params_n": "histogram",
    "request_params_max_tokens": "histogram",
    "iteration_tokens_total": "histogram",
}
OLDER = {
    "gpu_cache_usage_perc",
    "gpu_prefix_cache_queries",
    "gpu_prefix_cache_hits",
    "time_per_output_token_seconds",
}

# The queries of the dashboard that vLLM publishes (examples/online_serving/prometheus_grafana/grafana.json), one for each shape and series.
DASHBOARD = [
    'histogram_quantile(0.99, sum by(le) (rate(vllm:e2e_request_latency_seconds_bucket{model_name="$model_name"}[$__rate_interval])))',
    'rate(vllm:e2e_request_latency_seconds_sum{model_name="$model_name"}[$__rate_interval])',
    'rate(vllm:e2e_request_latency_seconds_count{model_name="$model_name"}[$__rate_interval])',
    'rate(vllm:prompt_tokens_total{model_name="$model_name"}[$__rate_interval])',
    'rate(vllm:generation_tokens_total{model_name="$model_name"}[$__rate_interval])',
    'histogram_quantile(0.99, sum by(le) (rate(vllm:time_per_output_token_seconds_bucket{model_name="$model_name"}[$__rate_interval])))',
    'histogram_quantile(0.99, sum by(le) (rate(vllm:inter_token_latency_seconds_bucket{model_name="$model_name"}[$__rate_interval])))',
    'vllm:num_requests_running{model_name="$model_name"}',
    'vllm:num_requests_waiting{model_name="$model_name"}',
    'rate(vllm:time_to_first_token_seconds_sum{model_name="$model_name"}[$__rate_interval])',
    'rate(vllm:time_to_first_token_seconds_count{model_name="$model_name"}[$__rate_interval])',
    'vllm:gpu_cache_usage_perc{model_name="$model_name"}',
    'vllm:kv_cache_usage_perc{model_name="$model_name"}',
    'sum by(le) (increase(vllm:request_prompt_tokens_bucket{model_name="$model_name"}[$__rate_interval]))',
    'sum by(le) (increase(vllm:request_generation_tokens_bucket{model_name="$model_name"}[$__rate_interval]))',
    'sum by(finished_reason) (increase(vllm:request_success_total{model_name="$model_name"}[$__rate_interval]))',
    'rate(vllm:request_queue_time_seconds_sum{model_name="$model_name"}[$__rate_interval])',
    'rate(vllm:request_prefill_time_seconds_sum{model_name="$model_name"}[$__rate_interval])',
    'rate(vllm:request_decode_time_seconds_sum{model_name="$model_name"}[$__rate_interval])',
    'rate(vllm:request_max_num_generation_tokens_sum{model_name="$model_name"}[$__rate_interval])',
]

# Of vLLM's /metrics, with --max-model-len 512.
BUCKETS = {
    "time_to_first_token_seconds": "0.001 0.005 0.01 0.02 0.04 0.06 0.08 0.1 0.25 0.5 0.75 1 2.5 5 7.5 10 20 40 80 160 640 2560",
    "inter_token_latency_seconds": "0.01 0.025 0.05 0.075 0.1 0.15 0.2 0.3 0.4 0.5 0.75 1 2.5 5 7.5 10 20 40 80",
    "e2e_request_latency_seconds": "0.3 0.5 0.8 1 1.5 2 2.5 5 10 15 20 30 40 50 60 120 240 480 960 1920 7680",
    "request_prompt_tokens": "1 2 5 10 20 50 100 200 500",
    "request_params_n": "1 2 5 10 20",
    "iteration_tokens_total": "1 8 16 32 64 128 256 512 1024 2048 4096 8192 16384",
}

Families = dict[str, Metric]


def families(response: httpx2.Response) -> Families:
    assert response.status_code == 200
    parse = parse_open if "openmetrics" in response.headers["content-type"] else parse_text
    found = list(parse(response.text))
    named = {family.name: family for family in found}
    assert len(named) == len(found)
    return named


def value(found: Families, sample: str, **labels: str) -> float:
    """Of the one sample that has these labels among its own."""
    (only,) = (
        each.value
        for family in found.values()
        for each in family.samples
        if each.name == sample and labels.items() <= each.labels.items()
    )
    return only


@pytest.fixture
def scraped(engine: FakeEngine) -> Callable[..., Families]:
    """Have a server answer, and read its metrics."""

    def scrape(*bodies: dict[str, object], settings: ServerSettings | None = None, **headers: str) -> Families:
        with serving(engine, settings or ServerSettings()) as url, httpx2.Client(base_url=url) as client:
            for body in bodies:
                client.post("/v1/completions", json={"prompt": "abc", **body})
            return families(client.get("/metrics", headers=headers))

    return scrape


@pytest.mark.parametrize("headers", [{}, OPEN])
def test_both_formats_parse(scraped, headers: dict[str, str]) -> None:
    found = scraped({}, **headers)
    for name, kind in VLLM.items():
        assert found[f"vllm:{name}"].type == kind, name
        if name not in OLDER:
            assert found[f"dovetail:{name}"].type == kind, name
    assert {"http_requests", "http_request_duration_seconds", "process_cpu_seconds", "python_info"} <= found.keys()


def test_nothing_has_vllm_s_prefix_that_vllm_does_not_have(scraped) -> None:
    found = {name.removeprefix("vllm:") for name in scraped() if name.startswith("vllm:")}
    assert found == VLLM.keys()


def test_labels_are_those_of_vllm(scraped) -> None:
    found = scraped(settings=ServerSettings(served_model_name=["main", "other"]))
    for name in VLLM.keys() - {"cache_config_info"}:
        for sample in found[f"vllm:{name}"].samples:
            labels = dict(sample.labels)
            assert (labels.pop("model_name"), labels.pop("engine")) == ("main", "0")
            labels.pop("le", None)
            assert labels.keys() == ({"finished_reason"} if name == "request_success" else set())


@pytest.mark.parametrize(("name", "bounds"), BUCKETS.items())
def test_buckets_are_those_of_vllm(scraped, name: str, bounds: str) -> None:
    samples = scraped()[f"vllm:{name}"].samples
    assert [float(each.labels["le"]) for each in samples if "le" in each.labels] == [
        *map(float, bounds.split()),
        float("inf"),
    ]


@pytest.mark.parametrize("query", DASHBOARD)
def test_published_dashboards_find_their_series(scraped, query: str) -> None:
    (name,) = re.findall(r"vllm:\w+", query)
    asked = set(re.findall(r"by\((\w+)\)", query)) | set(re.findall(r"(\w+)=", query))
    samples = [each for family in scraped({}).values() for each in family.samples if each.name == name]
    assert samples
    assert all(asked <= each.labels.keys() and each.labels["model_name"] == "fake/model" for each in samples)


def test_the_documentation_has_each_of_our_names(engine: FakeEngine, scraped) -> None:
    async def say() -> Overview:
        return Overview(EngineStats(), [], 0, max_loras=1)

    engine.overview = say  # type: ignore[method-assign]
    page = (Path(__file__).parents[4] / "docs" / "operation.md").read_text(encoding="utf-8")
    shown = {name: family.type for name, family in scraped().items() if name.startswith("dovetail:")}
    assert dict(re.findall(r"^\| `(dovetail:\w+)` \| (\w+) \|", page, re.MULTILINE)) == shown


def test_vllm_s_names_can_be_left_out(scraped) -> None:
    found = scraped(settings=ServerSettings(disable_vllm_metrics=True))
    assert not [name for name in found if name.startswith("vllm:")]
    assert "dovetail:num_requests_running" in found


def test_what_the_engine_says_is_shown(engine: FakeEngine, scraped) -> None:
    steps = StepSizeHistogram()
    for tokens in (1, 8, 9, 20000):
        steps.add(tokens)
    stats = EngineStats(3, 2, 0.25, 100, 40, 7, 1000, 2000, 60, 50)
    overview = Overview(stats, [], 0, steps, 20, ["b", "c"], ["a"], 4, {"block_size": "16", "num_gpu_blocks": "99"})

    async def say() -> Overview:
        return overview

    engine.overview = say  # type: ignore[method-assign]
    found = scraped()
    shown = {
        "num_requests_running": 3,
        "num_requests_waiting": 2,
        "kv_cache_usage_perc": 0.25,
        "prefix_cache_queries_total": 100,
        "prefix_cache_hits_total": 40,
        "num_preemptions_total": 7,
        "prompt_tokens_total": 1000,
        "generation_tokens_total": 2000,
        "spec_decode_num_drafts_total": 20,
        "spec_decode_num_draft_tokens_total": 60,
        "spec_decode_num_accepted_tokens_total": 50,
    }
    for name, figure in shown.items():
        assert value(found, f"vllm:{name}") == value(found, f"dovetail:{name}") == figure
    buckets = {each.labels.get("le", each.name): each.value for each in found["vllm:iteration_tokens_total"].samples}
    assert (buckets["1.0"], buckets["8.0"], buckets["16.0"], buckets["16384.0"], buckets["+Inf"]) == (1, 2, 3, 3, 4)
    assert buckets["vllm:iteration_tokens_total_sum"] == 20018
    assert value(found, "vllm:cache_config_info", block_size="16", num_gpu_blocks="99", engine="0") == 1
    adapters = {"max_lora": "4", "waiting_lora_adapters": "a", "running_lora_adapters": "b,c"}
    assert value(found, "vllm:lora_requests_info", **adapters) > 1.7e9


def test_without_an_engine_the_rest_is_shown(engine: FakeEngine) -> None:
    with serving(engine, ServerSettings()) as url:
        engine.die()
        found = families(httpx2.get(f"{url}/metrics"))
    assert "vllm:num_requests_running" not in found
    assert "vllm:request_success" in found


def test_an_engine_that_does_not_answer_is_not_waited_for(engine: FakeEngine, live: str, monkeypatch) -> None:
    async def never() -> Overview:
        await asyncio.sleep(60)
        raise AssertionError

    engine.overview = never  # type: ignore[method-assign]
    monkeypatch.setattr("dovetail.server.operations.metrics.ENGINE_SECONDS", 0.05)
    found = families(httpx2.get(f"{live}/metrics"))
    assert "vllm:num_requests_running" not in found
    assert "vllm:request_success" in found


def test_requests_are_counted_by_their_end(scraped) -> None:
    found = scraped({"n": 2}, {"max_tokens": 3}, {"prompt": ["a", "b"], "max_tokens": 2, "stream": True})
    assert value(found, "vllm:request_success_total", finished_reason="stop") == 2
    assert value(found, "vllm:request_success_total", finished_reason="length") == 3
    for name, total in {
        "request_generation_tokens": 8 + 8 + 3 + 2 + 2,
        "request_prompt_tokens": 4 + 4 + 4 + 2 + 2,
        "request_max_num_generation_tokens": 8 + 3 + 2 + 2,
        "request_params_n": 2 + 1 + 1 + 1,
        "request_params_max_tokens": 16 + 16 + 3 + 2 + 2,
    }.items():
        assert value(found, f"vllm:{name}_sum") == total, name
    assert value(found, "vllm:inter_token_latency_seconds_count") == 7 + 7 + 2 + 1 + 1
    assert value(found, "vllm:time_to_first_token_seconds_count") == 5
    assert value(found, "vllm:e2e_request_latency_seconds_count") == 5


def test_who_leaves_and_what_fails_is_counted(engine: FakeEngine, until) -> None:
    engine.delay = 0.01
    with serving(engine, ServerSettings()) as url, httpx2.Client(base_url=url) as client:
        with client.stream("POST", "/v1/completions", json={"prompt": "a", "stream": True, "ignore_eos": True}) as left:
            next(left.iter_lines())
        until(lambda: engine.aborted)
        engine.fail_at = 2
        assert client.post("/v1/completions", json={"prompt": "a"}).status_code == 500
        found = families(client.get("/metrics"))
    assert value(found, "vllm:request_success_total", finished_reason="abort") == 1
    assert value(found, "vllm:request_success_total", finished_reason="error") == 1
    assert value(found, "vllm:e2e_request_latency_seconds_count") == 0


def test_http_requests_are_counted_by_route_and_not_by_path(live: str) -> None:
    for _ in range(2):
        httpx2.get(f"{live}/v1/models/no/such/model")
    httpx2.get(f"{live}/v1/models/fake/model")
    httpx2.get(f"{live}/{'x' * 50}")
    httpx2.request("PROPFIND", f"{live}/health")
    found = families(httpx2.get(f"{live}/metrics"))
    route = "/v1/models/{model_id:path}"
    assert value(found, "http_requests_total", handler=route, method="GET", status="4xx") == 2
    assert value(found, "http_requests_total", handler=route, method="GET", status="2xx") == 1
    assert value(found, "http_requests_total", handler="none", method="GET", status="4xx") == 1
    assert value(found, "http_request_duration_seconds_count", handler=route, method="GET") == 3
    assert value(found, "http_requests_total", method="other") == 1
    assert value(found, "http_request_duration_highr_seconds_count") == 5


def test_metrics_need_a_key_where_keys_are_needed(ask) -> None:
    settings = ServerSettings(api_key=["k"])
    assert ask("GET", "/metrics", settings=settings).status_code == 401
    assert ask("GET", "/metrics", settings=settings, headers={"authorization": "Bearer k"}).status_code == 200


def test_tokens_that_come_together_share_the_time_since_those_before(monkeypatch) -> None:
    now = 100.0
    monkeypatch.setattr("dovetail.server.observe.request_records.time.monotonic", lambda: now)
    measures = GenerationMetrics(Counters.single_process(), 100)
    params = SamplingParams(n=2, max_tokens=9)
    with JobObserver(measures, Job("x", [[1, 2, 3]], params)) as seen:
        now = 101.0
        assert seen.add([Delta(0, "", [1], timing=(0.25, 0.5), cached_tokens=2), Delta(1, "", [1])]) == 0
        now = 103.0
        assert seen.add([Delta(0, "", [1, 2, 3, 4]), Delta(1, "", [], "stop")]) == 1
        now = 103.5
        assert seen.add([Delta(0, "", [], "length")]) == 1
    assert (measures.time_to_first_token.sum, sum(measures.time_to_first_token.counts())) == (2, 2)
    assert (measures.inter_token_latency.sum, sum(measures.inter_token_latency.counts())) == (2, 4)
    assert (measures.e2e_latency.sum, measures.decode_time.sum) == (3 + 3.5, 0 + 2)
    assert (measures.queue_time.sum, measures.prefill_time.sum, measures.inference_time.sum) == (0.25, 0.5, 0.5 + 2)
    assert (measures.time_per_output_token.sum, measures.num_computed_prompt_tokens.sum) == (2 / 4, 3 + 1)
    assert {reason: counter.value for reason, counter in measures.finished.items()} == {
        "stop": 1,
        "length": 1,
        "abort": 0,
        "error": 0,
    }


def test_bounds_of_tokens() -> None:
    assert token_buckets(1) == (1,)
    assert token_buckets(100) == (1, 2, 5, 10, 20, 50, 100)
    assert token_buckets(8192)[-1] == 5000
