"""Computes the metrics of a benchmark. Names and definitions are those of vLLM's ``bench serve``; times in
milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from dovetail.client.bench.stream import Outcome


def summarize(outcomes: Sequence[Outcome], seconds: float, goodput: Mapping[str, float]) -> dict[str, Any]:
    """The metrics of the whole benchmark.

    Args:
        goodput: metric → maximum milliseconds of a good request.
    """
    good = [outcome for outcome in outcomes if not outcome.error]
    inputs, outputs = sum(o.input_len for o in good), sum(o.output_len for o in good)
    return {
        "duration": seconds,
        "completed": len(good),
        "failed": len(outcomes) - len(good),
        "total_input_tokens": inputs,
        "total_output_tokens": outputs,
        "request_throughput": len(good) / seconds,
        "request_goodput": sum(_is_good(o, goodput) for o in good) / seconds if goodput else None,
        "output_throughput": outputs / seconds,
        "total_token_throughput": (inputs + outputs) / seconds,
        "max_output_tokens_per_s": _peak_throughput(good),
        "max_concurrent_requests": _peak_concurrency(good),
    }


def series(outcomes: Sequence[Outcome]) -> dict[str, list[float]]:
    """Metric → its values over all successful requests.

    ``ttft``, ``e2el`` and, from two tokens on, ``tpot`` have one value each; ``itl`` has the gaps between chunks.
    """
    good = [outcome for outcome in outcomes if not outcome.error]
    return {
        "ttft": [1e3 * o.ttft for o in good],
        "tpot": [_tpot(o) for o in good if o.output_len > 1],
        "itl": [1e3 * (b - a) for o in good for a, b in pairwise(o.times)],
        "e2el": [1e3 * o.latency for o in good],
    }


def statistics(values: Sequence[float], percentiles: Sequence[float]) -> dict[str, float]:
    """Prefix of a statistic's name → value: ``mean``, ``median``, ``std``, ``p99`` …; zeros if there are no values."""
    data = np.asarray(values or [0.0])
    found = {"mean": float(data.mean()), "median": float(np.median(data)), "std": float(data.std())}
    return found | {f"p{value:g}": float(np.percentile(data, value)) for value in percentiles}


def _tpot(outcome: Outcome) -> float:
    """Time for each token after the first; 0 if there is none, which meets every limit."""
    return 1e3 * (outcome.latency - outcome.ttft) / (outcome.output_len - 1) if outcome.output_len > 1 else 0.0


def _is_good(outcome: Outcome, limits: Mapping[str, float]) -> bool:
    values = {"ttft": 1e3 * outcome.ttft, "tpot": _tpot(outcome), "e2el": 1e3 * outcome.latency}
    return all(values[name] <= limit for name, limit in limits.items())


def _peak_throughput(good: Sequence[Outcome]) -> float:
    """Number of chunks in the second with the most chunks."""
    if not good:
        return 0.0
    start = min(outcome.started for outcome in good)
    return float(np.bincount([int(at - start) for outcome in good for at in outcome.times]).max())


def _peak_concurrency(good: Sequence[Outcome]) -> int:
    """The largest number of requests in flight."""
    # Of an end and a start at the same time, the end comes first.
    events = sorted([(o.started, 1) for o in good] + [(o.times[-1], -1) for o in good])
    return int(np.cumsum([change for _, change in events]).max(initial=0))
