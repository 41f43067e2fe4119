"""OpenTelemetry: the span of a request, in a trace that its caller began, and on its way to a collector."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import httpx2
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from server_fakes import FakeEngine, serving, until

from dovetail.api.errors import UsageError
from dovetail.server.observe import tracing as traces
from dovetail.server.settings import ServerSettings

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CALLER = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=x"}
COLLECTOR = "http://127.0.0.1:1"
TRACED = ServerSettings(otlp_traces_endpoint=COLLECTOR)
Spans = Callable[[int], list[ReadableSpan]]


@pytest.fixture
def spans(monkeypatch) -> Spans:
    """The first so many spans that servers make."""
    exporter = InMemorySpanExporter()
    monkeypatch.setattr(traces, "create_exporter", lambda endpoint: exporter)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")

    def finished(count: int) -> list[ReadableSpan]:
        until(lambda: len(exporter.get_finished_spans()) >= count)
        return list(exporter.get_finished_spans())

    return finished


def test_a_span_continues_the_caller_s_trace(ask, spans: Spans) -> None:
    ask("POST", "/v1/completions", settings=TRACED, json={"prompt": "a", "stream": True}, headers=CALLER)
    (span,) = spans(1)
    assert (span.name, span.kind) == ("llm_request", SpanKind.SERVER)
    assert span.context is not None
    assert span.parent is not None
    assert format(span.context.trace_id, "032x") == TRACE
    assert format(span.parent.span_id, "016x") == PARENT
    assert span.context.trace_state.get("vendor") == "x"
    assert span.resource.attributes["service.name"] == "dovetail"
    assert span.start_time is not None
    assert span.end_time is not None
    assert 0 < span.end_time - span.start_time < 5e9


def test_without_a_caller_s_trace_one_begins(ask, spans: Spans) -> None:
    for headers in ({}, {"traceparent": "nonsense"}):
        ask("POST", "/v1/completions", settings=TRACED, json={"prompt": "a"}, headers=headers)
    first, second = spans(2)
    assert first.parent is second.parent is None
    assert first.context is not None
    assert second.context is not None
    assert first.context.trace_id != second.context.trace_id


def test_attributes(ask, engine: FakeEngine, spans: Spans) -> None:
    body = {"messages": [{"role": "user", "content": "a"}], "n": 2, "max_tokens": 3, "temperature": 0.5, "top_p": 0.9}
    answer = ask("POST", "/v1/chat/completions", settings=TRACED, json=body, headers={"x-request-id": "given-id"})
    prompt = answer.json()["usage"]["prompt_tokens"]
    (span,) = spans(1)
    found = dict(span.attributes or {})
    latencies = {name: found.pop(name) for name in list(found) if name.startswith("gen_ai.latency.")}
    assert found == {
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "dovetail",
        "gen_ai.request.model": "fake/model",
        "gen_ai.response.model": "fake/model",
        "gen_ai.request.id": "given-id",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.request.n": 2,
        "gen_ai.request.max_tokens": 3,
        "gen_ai.response.finish_reasons": ("length", "length"),
        "gen_ai.usage.num_sequences": 2,
        "gen_ai.usage.prompt_tokens": prompt,
        "gen_ai.usage.input_tokens": prompt,
        "gen_ai.usage.completion_tokens": 6,
        "gen_ai.usage.output_tokens": 6,
    }
    assert latencies.keys() == {
        f"gen_ai.latency.{each}" for each in ("e2e", "time_to_first_token", "time_in_model_decode")
    }
    assert 0 < latencies["gen_ai.latency.time_to_first_token"] <= latencies["gen_ai.latency.e2e"]


def test_what_was_refused_and_what_failed(ask, engine: FakeEngine, spans: Spans) -> None:
    ask("POST", "/v1/completions", settings=TRACED, json={"prompt": "a", "n": "x"})
    engine.fail_at = 2
    ask("POST", "/v1/completions", settings=TRACED, json={"prompt": "a"})
    ask("GET", "/v1/models", settings=TRACED)
    ask("POST", "/ping", settings=TRACED)
    refused, failed, ping = spans(3)
    assert (refused.name, refused.status.status_code) == ("POST /v1/completions", StatusCode.UNSET)
    assert (refused.attributes or {})["http.response.status_code"] == 400
    assert (failed.name, failed.status.status_code) == ("llm_request", StatusCode.ERROR)
    assert (failed.attributes or {})["gen_ai.response.finish_reasons"] == ("error",)
    assert ping.name == "POST /ping"


@pytest.fixture
def collector() -> Iterator[tuple[str, list[Any]]]:
    """The URL of a collector that speaks OTLP over HTTP, and what it was sent."""
    got: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            got.append((self.path, ExportTraceServiceRequest.FromString(body)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", got
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(("path", "reached"), [("", "/v1/traces"), ("/", "/v1/traces"), ("/other", "/other")])
def test_spans_reach_a_collector(engine: FakeEngine, collector, monkeypatch, path: str, reached: str) -> None:
    url, got = collector
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    with serving(engine, ServerSettings(otlp_traces_endpoint=url + path)) as server:
        httpx2.post(f"{server}/v1/completions", json={"prompt": "a"}, headers=CALLER)
        until(lambda: got)
    ((found, request),) = got
    (span,) = request.resource_spans[0].scope_spans[0].spans
    assert (found, span.name, span.trace_id.hex()) == (reached, "llm_request", TRACE)


def test_spans_reach_a_collector_that_speaks_grpc(engine: FakeEngine, monkeypatch) -> None:
    got: list[Any] = []

    class Collector(TraceServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:  # noqa: N802  # the name in the protocol
            got.append(request)
            return ExportTraceServiceResponse()

    server = grpc.server(futures.ThreadPoolExecutor(1))
    add_TraceServiceServicer_to_server(Collector(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    with serving(engine, ServerSettings(otlp_traces_endpoint=f"grpc://127.0.0.1:{port}")) as url:
        httpx2.post(f"{url}/v1/completions", json={"prompt": "a"})
        until(lambda: got)
    server.stop(None)
    assert got[0].resource_spans[0].scope_spans[0].spans[0].name == "llm_request"


def test_what_has_not_been_sent_is_sent_at_the_end(collector) -> None:
    url, got = collector
    made = traces.RequestTracer("model", traces.create_exporter(url))
    made._tracer.start_span("last").end()
    assert not got
    made.close()
    assert got[0][1].resource_spans[0].scope_spans[0].spans[0].name == "last"


@pytest.mark.parametrize("endpoint", ["localhost:4317", "ftp://collector", "http://"])
def test_an_endpoint_is_a_url(endpoint: str) -> None:
    with pytest.raises(UsageError, match="wanted a URL of a collector"):
        traces.check_tracing(ServerSettings(otlp_traces_endpoint=endpoint))


def test_without_the_extra_the_flag_says_what_to_install(monkeypatch) -> None:
    for module in list(sys.modules):
        if module.startswith("opentelemetry.exporter"):
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter", None)
    for endpoint in (COLLECTOR, "grpc://127.0.0.1:1"):
        with pytest.raises(UsageError, match=r"pip install 'dovetail\[otel\]'"):
            traces.check_tracing(ServerSettings(otlp_traces_endpoint=endpoint))


def test_without_the_flag_nothing_of_it_is_imported() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from server_fakes import *;"
        "build_app(FakeEngine(), ServerSettings()); assert not [m for m in sys.modules if m.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))]"
    )
    subprocess.run([sys.executable, "-c", code, str(Path(__file__).parents[1])], check=True)
