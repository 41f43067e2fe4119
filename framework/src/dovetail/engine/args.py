"""The engine's options: one model, from which the command line's flags, ``LLM``'s arguments and the documentation follow."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from dovetail.kernel.options import PlanOptions


class EngineArgs(PlanOptions):
    """Everything that decides how one model runs; names and defaults are those of the command line's flags."""

    max_num_seqs: int = Field(default=256, gt=0, le=65536, description="requests that run at once")
    max_num_batched_tokens: int = Field(
        default=2048, gt=0, description="tokens computed in one step; longer prompts are computed in chunks"
    )
    gpu_memory_utilization: float = Field(
        default=0.9, gt=0, le=1, description="share of the device's memory that the engine may use, KV cache included"
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="of the draws of requests that bring no seed of their own")
    generation_config: str = Field(
        default="auto",
        description="where default sampling parameters come from: auto (the model), none (neutral ones), or a folder",
    )
    override_generation_config: dict[str, Any] = Field(
        default={}, description="JSON object of default sampling parameters, over those of --generation-config"
    )
    chat_template: str | None = Field(
        default=None, description="a file with a chat template, or the template itself, instead of the model's own"
    )
    plugins: str | None = Field(
        default=None,
        description="which plugins take part: comma-separated [kind:]distribution terms with wildcards, a - before a "
        "term denies; overrides DOVETAIL_PLUGINS",
    )
    prefer: list[str] = Field(
        default=[], description="kind:name=distribution, for a name that several distributions offer"
    )
