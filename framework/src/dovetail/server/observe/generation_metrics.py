"""Metrics of requests that generate, with the buckets that dashboards for vLLM expect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dovetail.server.observe.counters import Counter, Counters, Histogram

FIRST_TOKEN_BUCKETS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
INTER_TOKEN_BUCKETS = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
LATENCY_BUCKETS = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0),
    *(40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
NUM_CHOICES_BUCKETS = (1, 2, 5, 10, 20)
FINISH_REASONS = ("stop", "length", "abort", "error")


def token_buckets(limit: int) -> tuple[int, ...]:
    """1, 2, 5, 10, 20, 50 … up to ``limit``."""
    bounds = []
    power = 1
    while power <= limit:
        bounds += [step * power for step in (1, 2, 5) if step * power <= limit]
        power *= 10
    return tuple(bounds)


@dataclass(frozen=True)
class HistogramMetric:
    """A histogram with its metric name and help text.

    Attributes:
        name: without the prefix.
        legacy_names: earlier names of the metric in vLLM.
    """

    name: str
    help: str
    histogram: Histogram
    legacy_names: tuple[str, ...] = ()


class GenerationMetrics:
    """The metrics of generation. Times are in seconds. Values of a sequence are observed once for each completion that
    finished normally.

    Args:
        max_model_len: the largest bucket of token counts.
    """

    def __init__(self, counters: Counters, max_model_len: int) -> None:
        self._counters = counters
        self.distributions: list[HistogramMetric] = []
        self.finished: dict[str, Counter] = {reason: counters.counter() for reason in FINISH_REASONS}
        tokens = token_buckets(max_model_len)
        new = self._new
        self.time_to_first_token = new(
            "time_to_first_token_seconds",
            FIRST_TOKEN_BUCKETS,
            "From the arrival of a request to a sequence's first token.",
        )
        self.inter_token_latency = new(
            "inter_token_latency_seconds",
            INTER_TOKEN_BUCKETS,
            "Between a token and the one before it; tokens that came together share the time since those before.",
            ("time_per_output_token_seconds",),
        )
        self.time_per_output_token = new(
            "request_time_per_output_token_seconds",
            INTER_TOKEN_BUCKETS,
            "A sequence's mean time between tokens.",
        )
        self.e2e_latency = new(
            "e2e_request_latency_seconds", LATENCY_BUCKETS, "From the arrival of a request to a sequence's end."
        )
        self.queue_time = new(
            "request_queue_time_seconds", LATENCY_BUCKETS, "Until the engine began to compute a sequence."
        )
        self.prefill_time = new(
            "request_prefill_time_seconds",
            LATENCY_BUCKETS,
            "From when the engine began with a sequence to its first token.",
        )
        self.decode_time = new(
            "request_decode_time_seconds", LATENCY_BUCKETS, "From a sequence's first token to its last."
        )
        self.inference_time = new(
            "request_inference_time_seconds",
            LATENCY_BUCKETS,
            "From when the engine began with a sequence to its last token.",
        )
        self.num_prompt_tokens = new("request_prompt_tokens", tokens, "Tokens of a sequence's prompt.")
        self.num_computed_prompt_tokens = new(
            "request_prefill_kv_computed_tokens", tokens, "Tokens of a prompt that were not found in the prefix cache."
        )
        self.num_output_tokens = new("request_generation_tokens", tokens, "Tokens that a sequence got.")
        self.max_num_output_tokens = new(
            "request_max_num_generation_tokens", tokens, "Tokens of the longest of a prompt's completions."
        )
        self.num_choices = new("request_params_n", NUM_CHOICES_BUCKETS, "n of each prompt.")
        self.max_tokens = new("request_params_max_tokens", tokens, "max_tokens of a sequence, where it has one.")

    def _new(self, name: str, bounds: Sequence[float], help: str, legacy_names: tuple[str, ...] = ()) -> Histogram:
        histogram = self._counters.histogram(bounds)
        self.distributions.append(HistogramMetric(name, help, histogram, legacy_names))
        return histogram
