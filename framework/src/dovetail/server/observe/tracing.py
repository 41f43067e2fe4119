"""OpenTelemetry: a span for each request, as part of the caller's trace. Without ``--otlp-traces-endpoint``, its
packages are not imported.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from starlette.types import Scope

from dovetail.api.errors import UsageError
from dovetail.server.asgi_scope import header
from dovetail.server.observe.request_records import JobObserver, RequestRecord
from dovetail.server.settings import ServerSettings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

SERVICE = "dovetail"
FLUSH_MILLISECONDS = 2000
"""Seconds to send the remaining spans when the server ends."""
CHAT_ROUTES = ("/v1/chat/completions", "/v1/messages", "/v1/responses")


def create_exporter(endpoint: str) -> SpanExporter:
    """The exporter that sends spans to ``--otlp-traces-endpoint``.

    Raises:
        UsageError: the value is not a valid URL, or the packages are not installed.
    """
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https", "grpc") or not parts.netloc:
        raise UsageError(
            f"--otlp-traces-endpoint {endpoint}: wanted a URL of a collector",
            "write for example http://localhost:4318/v1/traces, or grpc://localhost:4317",
        )
    requested = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    try:
        if parts.scheme == "grpc" or requested == "grpc":
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as Grpc

            return Grpc(endpoint=parts.netloc, insecure=parts.scheme != "https")
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as Http

        return Http(endpoint=endpoint if parts.path.strip("/") else f"{endpoint.rstrip('/')}/v1/traces")
    except ImportError as error:
        raise UsageError(
            f"--otlp-traces-endpoint needs OpenTelemetry's SDK and exporter ({error})",
            "install them: pip install 'dovetail[otel]'",
        ) from None


def check_tracing(settings: ServerSettings) -> None:
    """Check that traces can be sent, if tracing is enabled.

    Raises:
        UsageError: as :func:`create_exporter`.
    """
    if settings.otlp_traces_endpoint is not None:
        create_exporter(settings.otlp_traces_endpoint).shutdown()


def create_tracer(settings: ServerSettings, model: str) -> RequestTracer | None:
    """The tracer of a server, if tracing is enabled.

    Args:
        model: the name that it is served under.
    """
    endpoint = settings.otlp_traces_endpoint
    return None if endpoint is None else RequestTracer(model, create_exporter(endpoint))


class RequestTracer:
    """Makes the spans, and sends them in batches from its own thread.

    Args:
        model: the name that it is served under.
        exporter: sends the spans.
    """

    def __init__(self, model: str, exporter: SpanExporter) -> None:
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._model = model
        self._provider = _provider()
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("dovetail.server")
        self._propagator = TraceContextTextMapPropagator()

    def add(self, record: RequestRecord, scope: Scope) -> None:
        """Add the span of a finished request. Requests that only read, such as ``/metrics``, have none."""
        if record.method != "POST":
            return
        from opentelemetry.trace import SpanKind, Status, StatusCode

        carrier = {name: header(scope, name.encode()).decode("latin-1") for name in ("traceparent", "tracestate")}
        now = time.time_ns()
        span = self._tracer.start_span(
            "llm_request" if record.jobs else f"POST {record.route}".strip(),
            self._propagator.extract({name: value for name, value in carrier.items() if value}),
            SpanKind.SERVER,
            self._attributes(record),
            start_time=now - int((time.monotonic() - record.received) * 1e9),
        )
        if record.status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        span.end(now)

    def _attributes(self, record: RequestRecord) -> dict[str, Any]:
        found: dict[str, Any] = {
            "http.request.method": record.method,
            "http.response.status_code": record.status,
            "gen_ai.request.id": record.id,
        }
        if record.route:
            found["http.route"] = record.route
        if record.jobs:
            found |= generation_attributes(record.jobs, time.monotonic() - record.received)
            found["gen_ai.operation.name"] = "chat" if record.route in CHAT_ROUTES else "text_completion"
            found["gen_ai.provider.name"] = SERVICE
            found["gen_ai.request.model"] = found["gen_ai.response.model"] = record.jobs[0].job.adapter or self._model
        return found

    def close(self) -> None:
        """Send the remaining spans, within the time limit for the end of a server."""
        self._provider.force_flush(FLUSH_MILLISECONDS)


def generation_attributes(jobs: list[JobObserver], seconds: float) -> dict[str, Any]:
    """Span attributes of a request's parameters and results: those of the semantic conventions, and vLLM's additions.

    Args:
        seconds: duration of the request.
    """
    params = jobs[0].job.params
    choices = [choice for job in jobs for choice in job.choices]
    prompt, output = sum(job.job.num_prompt_tokens for job in jobs), sum(choice.tokens for choice in choices)
    found: dict[str, Any] = {
        "gen_ai.request.temperature": params.temperature,
        "gen_ai.request.top_p": params.top_p,
        "gen_ai.request.n": params.n,
        "gen_ai.usage.num_sequences": len(choices),
        "gen_ai.usage.prompt_tokens": prompt,
        "gen_ai.usage.input_tokens": prompt,
        "gen_ai.usage.completion_tokens": output,
        "gen_ai.usage.output_tokens": output,
        "gen_ai.response.finish_reasons": [choice.reason or "" for choice in choices],
        "gen_ai.latency.e2e": seconds,
    }
    if params.max_tokens is not None:
        found["gen_ai.request.max_tokens"] = params.max_tokens
    begun = [choice for choice in choices if choice.first]
    if not begun:
        return found
    first = min(begun, key=lambda choice: choice.first)
    decode = max(choice.last for choice in begun) - first.first
    found["gen_ai.latency.time_to_first_token"] = first.first - jobs[0].began
    found["gen_ai.latency.time_in_model_decode"] = decode
    if first.waited is not None:
        found["gen_ai.latency.time_in_queue"] = first.waited
        found["gen_ai.latency.time_in_model_prefill"] = first.prefill
        found["gen_ai.latency.time_in_model_inference"] = first.prefill + decode
    return found


def _provider() -> TracerProvider:
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider

    resource = Resource.create()
    if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):  # no other name is configured
        resource = resource.merge(Resource({SERVICE_NAME: SERVICE}))
    # The server's shutdown sends the remaining spans; at interpreter exit that could take much too long.
    return TracerProvider(resource=resource, shutdown_on_exit=False)
