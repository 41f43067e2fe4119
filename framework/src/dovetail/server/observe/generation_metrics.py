"""What is measured of the requests that generate, with the buckets that dashboards for vLLM expect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dovetail.server.observe.counters import Counter, Counters, Histogram

FIRST_TOKEN = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
BETWEEN_TOKENS = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
LATENCY = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0),
    *(40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
CHOICES = (1, 2, 5, 10, 20)
REASONS = ("stop", "length", "abort", "error")


def token_bounds(most: int) -> tuple[int, ...]:
    """1, 2, 5, 10, 20, 50 … up to ``most``."""
    bounds = []
    power = 1
    while power <= most:
        bounds += [step * power for step in (1, 2, 5) if step * power <= most]
        power *= 10
    return tuple(bounds)


@dataclass(frozen=True)
class Distribution:
    """A histogram with what its readers are told.

    Attributes:
        name: without the prefix.
        older: names that it had in vLLM before.
    """

    name: str
    help: str
    histogram: Histogram
    older: tuple[str, ...] = ()


class Measures:
    """The counters of generation. Times are in seconds; what is said of a sequence is observed once for each completion that ended by itself.

    Args:
        max_model_len: up to which tokens are counted in buckets.
    """

    def __init__(self, counters: Counters, max_model_len: int) -> None:
        self._counters = counters
        self.distributions: list[Distribution] = []
        self.finished: dict[str, Counter] = {reason: counters.counter() for reason in REASONS}
        tokens = token_bounds(max_model_len)
        new = self._new
        self.first_token = new(
            "time_to_first_token_seconds", FIRST_TOKEN, "From the arrival of a request to a sequence's first token."
        )
        self.between_tokens = new(
            "inter_token_latency_seconds",
            BETWEEN_TOKENS,
            "Between a token and the one before it; tokens that came together share the time since those before.",
            ("time_per_output_token_seconds",),
        )
        self.per_token = new(
            "request_time_per_output_token_seconds",
            BETWEEN_TOKENS,
            "A sequence's mean time between tokens.",
        )
        self.latency = new("e2e_request_latency_seconds", LATENCY, "From the arrival of a request to a sequence's end.")
        self.waited = new("request_queue_time_seconds", LATENCY, "Until the engine began to compute a sequence.")
        self.prefill = new(
            "request_prefill_time_seconds", LATENCY, "From when the engine began with a sequence to its first token."
        )
        self.decode = new("request_decode_time_seconds", LATENCY, "From a sequence's first token to its last.")
        self.inference = new(
            "request_inference_time_seconds", LATENCY, "From when the engine began with a sequence to its last token."
        )
        self.prompt = new("request_prompt_tokens", tokens, "Tokens of a sequence's prompt.")
        self.computed = new(
            "request_prefill_kv_computed_tokens", tokens, "Tokens of a prompt that were not found in the prefix cache."
        )
        self.output = new("request_generation_tokens", tokens, "Tokens that a sequence got.")
        self.longest = new(
            "request_max_num_generation_tokens", tokens, "Tokens of the longest of a prompt's completions."
        )
        self.choices = new("request_params_n", CHOICES, "n of each prompt.")
        self.max_tokens = new("request_params_max_tokens", tokens, "max_tokens of a sequence, where it has one.")

    def _new(self, name: str, bounds: Sequence[float], help: str, older: tuple[str, ...] = ()) -> Histogram:
        histogram = self._counters.histogram(bounds)
        self.distributions.append(Distribution(name, help, histogram, older))
        return histogram
