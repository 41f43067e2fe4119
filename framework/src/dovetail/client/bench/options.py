"""Options of the benchmarks. Their flags are made from these fields; the module imports nothing heavy."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from dovetail.api.errors import UsageError

METRICS = ("ttft", "tpot", "itl", "e2el")
GOOD_METRICS = ("ttft", "tpot", "e2el")
"""Metrics with one value per request, which a goodput limit can use."""


class ServeOptions(BaseModel):
    """Options of ``dovetail bench serve``."""

    model_config = ConfigDict(extra="forbid")

    endpoint: Literal["/v1/completions", "/v1/chat/completions"] = Field(
        "/v1/completions", description="the route that is measured"
    )
    num_prompts: int = Field(200, gt=0, description="requests")
    request_rate: float = Field(math.inf, gt=0, description="requests a second; inf sends all at once")
    burstiness: float = Field(
        1.0,
        gt=0,
        description="how even the arrivals at a finite rate are: 1 for a Poisson process, below it for bursts, above it for more evenness",
    )
    max_concurrency: int | None = Field(None, gt=0, description="requests in flight at most")
    dataset_name: Literal["random", "sharegpt", "custom"] = Field("random", description="where prompts come from")
    dataset_path: str | None = Field(
        None,
        description="file of the dataset: ShareGPT's JSON, or custom lines of JSON with prompt and, perhaps, output_tokens",
    )
    random_input_len: int = Field(1024, gt=0, description="tokens of a random prompt")
    random_output_len: int = Field(128, gt=0, description="tokens asked for with a random prompt")
    random_range_ratio: float = Field(
        0.0, ge=0, lt=1, description="lengths are drawn from this share below to this share above those two"
    )
    random_vocab_size: int = Field(
        32000, ge=64, description="random token ids are drawn below this; a model with fewer needs it lower"
    )
    sharegpt_output_len: int | None = Field(
        None, gt=0, description="tokens asked for, instead of the recorded answer's"
    )
    custom_output_len: int = Field(256, gt=0, description="tokens asked for by lines without output_tokens")
    ignore_eos: bool = Field(
        False, description="have answers go on to the length asked for; an addition to OpenAI's API"
    )
    extra_body: dict[str, Any] = Field({}, description="fields for every request, such as temperature")
    seed: int = Field(0, ge=0, description="of prompts and arrivals")
    percentile_metrics: str = Field(
        ",".join(METRICS),
        description="of which metrics mean, median and percentiles are told, with commas between them",
    )
    metric_percentiles: str = Field("99", description="the percentiles, with commas between them")
    save_result: bool = Field(False, description="write the figures to a JSON file")
    save_detailed: bool = Field(False, description="with --save-result: those of every request, too")
    result_dir: str | None = Field(None, description="where to write it (default: here)")
    result_filename: str | None = Field(
        None, description="its name (default: made of rate, concurrency, model and time)"
    )

    @property
    def is_chat(self) -> bool:
        return self.endpoint.endswith("/chat/completions")

    @property
    def metrics(self) -> list[str]:
        """The selected metrics.

        Raises:
            UsageError: one is unknown.
        """
        names = [name.strip() for name in self.percentile_metrics.split(",") if name.strip()]
        if unknown := [name for name in names if name not in METRICS]:
            raise UsageError(f"--percentile-metrics has {', '.join(unknown)}", f"choose from {', '.join(METRICS)}")
        return names

    @property
    def percentiles(self) -> list[float]:
        """The selected percentiles.

        Raises:
            UsageError: one is not a percentile.
        """
        try:
            found = [float(text) for text in self.metric_percentiles.split(",")]
        except ValueError:
            found = [math.nan]
        if not all(0 <= value <= 100 for value in found):
            raise UsageError(f"--metric-percentiles is {self.metric_percentiles!r}", "write for example 50,90,99")
        return found

    def check(self) -> None:
        """Check that the options fit together.

        Raises:
            UsageError: an option belongs to another dataset, or requires another option.
        """
        own = {name for name in self.model_fields_set if name.startswith(("random_", "sharegpt_", "custom_"))}
        if strange := sorted(name for name in own if not name.startswith(f"{self.dataset_name}_")):
            flag = f"--{strange[0].replace('_', '-')}"
            raise UsageError(f"{flag} says nothing of the dataset {self.dataset_name}", "leave it out")
        if (self.dataset_path is None) != (self.dataset_name == "random"):
            wanted = "needs --dataset-path" if self.dataset_path is None else "takes no --dataset-path"
            raise UsageError(f"the dataset {self.dataset_name} {wanted}", "see --help")
        if not self.save_result and (
            alone := {"save_detailed", "result_dir", "result_filename"} & self.model_fields_set
        ):
            raise UsageError(f"--{min(alone).replace('_', '-')} needs --save-result", "give both")
        if math.isinf(self.request_rate) and "burstiness" in self.model_fields_set:
            raise UsageError("--burstiness needs a finite --request-rate", "give both")
        assert self.metrics is not None
        assert self.percentiles


def read_goodput(pairs: list[str]) -> dict[str, float]:
    """Parse ``ttft:200`` and the like: metric → maximum milliseconds of a good request.

    Raises:
        UsageError: a pair is not valid.
    """
    found: dict[str, float] = {}
    for pair in pairs:
        name, _, value = pair.partition(":")
        try:
            limit = float(value)
        except ValueError:
            limit = math.nan
        if name not in GOOD_METRICS or not limit >= 0:
            wanted = f"write METRIC:MILLISECONDS, with a metric of {', '.join(GOOD_METRICS)}"
            raise UsageError(f"--goodput has {pair!r}", wanted)
        found[name] = limit
    return found


class LatencyOptions(BaseModel):
    """Options of ``dovetail bench latency``."""

    input_len: int = Field(32, gt=0, description="tokens of each prompt")
    output_len: int = Field(128, gt=0, description="tokens generated for each")
    batch_size: int = Field(8, gt=0, description="prompts that run together")
    num_iters_warmup: int = Field(10, ge=0, description="rounds that are not counted")
    num_iters: int = Field(30, gt=0, description="rounds that are")
    output_json: str | None = Field(None, description="file for the figures")


class ThroughputOptions(BaseModel):
    """Options of ``dovetail bench throughput``."""

    input_len: int = Field(1024, gt=0, description="tokens of each prompt")
    output_len: int = Field(128, gt=0, description="tokens generated for each")
    num_prompts: int = Field(1000, gt=0, description="prompts, all given at once")
    output_json: str | None = Field(None, description="file for the figures")


class StartupOptions(BaseModel):
    """Options of ``dovetail bench startup``."""

    num_iters: int = Field(3, gt=0, description="how often the server is started")
    output_json: str | None = Field(None, description="file for the figures")
