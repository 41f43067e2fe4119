"""The results of a benchmark as a table and as a file."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from dovetail.api.errors import DovetailError
from dovetail.client.bench.options import ServeOptions
from dovetail.client.bench.stream import Outcome

WIDTH = 50
TITLES = {
    "ttft": "Time to First Token",
    "tpot": "Time per Output Token (excl. 1st token)",
    "itl": "Inter-token Latency",
    "e2el": "End-to-end Latency",
}


def render_table(options: ServeOptions, figures: Mapping[str, Any], metrics: Mapping[str, Mapping[str, float]]) -> str:
    """The table that vLLM's benchmark prints.

    Args:
        metrics: metric → its statistics.
    """
    rows: list[tuple[str, Any]] = [
        ("Successful requests:", figures["completed"]),
        ("Failed requests:", figures["failed"]),
        ("Maximum request concurrency:", options.max_concurrency),
        ("Request rate configured (RPS):", None if math.isinf(options.request_rate) else options.request_rate),
        ("Benchmark duration (s):", figures["duration"]),
        ("Total input tokens:", figures["total_input_tokens"]),
        ("Total generated tokens:", figures["total_output_tokens"]),
        ("Request throughput (req/s):", figures["request_throughput"]),
        ("Request goodput (req/s):", figures["request_goodput"]),
        ("Output token throughput (tok/s):", figures["output_throughput"]),
        ("Peak output token throughput (tok/s):", figures["max_output_tokens_per_s"]),
        ("Peak concurrent requests:", figures["max_concurrent_requests"]),
        ("Total token throughput (tok/s):", figures["total_token_throughput"]),
    ]
    lines = [f"{' Serving Benchmark Result ':=^{WIDTH}}"]
    lines += [_row(name, value) for name, value in rows if value is not None]
    for metric, statistics in metrics.items():
        lines.append(f"{TITLES[metric]:-^{WIDTH}}")
        lines += [
            _row(f"{name.capitalize()} {metric.upper()} (ms):", value)
            for name, value in statistics.items()
            if name != "std"
        ]
    return "\n".join([*lines, "=" * WIDTH])


def _row(name: str, value: float) -> str:
    return f"{name:<40} {value:<10.2f}".rstrip() if isinstance(value, float) else f"{name:<40} {value}"


def build_result(
    options: ServeOptions, model: str, figures: Mapping[str, Any], metrics: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    """All results, with vLLM's keys."""
    return {
        "date": time.strftime("%Y%m%d-%H%M%S"),
        "backend": _backend(options),
        "model_id": model,
        "num_prompts": options.num_prompts,
        "request_rate": "inf" if math.isinf(options.request_rate) else options.request_rate,
        "burstiness": options.burstiness,
        "max_concurrency": options.max_concurrency,
        **figures,
        **{f"{name}_{metric}_ms": value for metric, found in metrics.items() for name, value in found.items()},
    }


def build_details(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Lists over all requests, in order; times in seconds. Failed requests have none."""
    begin = min((outcome.started for outcome in outcomes), default=0.0)
    return {
        "input_lens": [o.input_len for o in outcomes],
        "output_lens": [o.output_len for o in outcomes],
        "start_times": [o.started - begin for o in outcomes],
        "ttfts": [None if o.error else o.ttft for o in outcomes],
        "latencies": [None if o.error else o.latency for o in outcomes],
        "itls": [[] if o.error else [b - a for a, b in pairwise(o.times)] for o in outcomes],
        "errors": [o.error for o in outcomes],
    }


def result_path(options: ServeOptions, values: Mapping[str, Any]) -> Path:
    """The path of the result file."""
    folder = Path(options.result_dir or "")
    if options.result_filename:
        return folder / options.result_filename
    concurrency = f"-concurrency{options.max_concurrency}" if options.max_concurrency else ""
    model = str(values["model_id"]).rstrip("/").split("/")[-1]
    return folder / f"{_backend(options)}-{options.request_rate:g}qps{concurrency}-{model}-{values['date']}.json"


def _backend(options: ServeOptions) -> str:
    return "openai-chat" if options.is_chat else "openai"


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write the result file.

    Raises:
        DovetailError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")  # so that a full disk leaves what was there
        try:
            part.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise DovetailError(f"cannot write {path}: {error.strerror}", "choose another place") from None
