"""The model on its device: built from the Plan, loaded, and run a step at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dovetail.api.errors import ResolutionError
from dovetail.engine.memory import return_freed_memory
from dovetail.kernel.discovery import import_dotted
from dovetail.kernel.plan import Plan
from dovetail.nn.attention import AttentionBackend
from dovetail.nn.context import Context
from dovetail.nn.loading import KernelChoice, Progress, WeightReader
from dovetail.nn.model import CausalLM
from dovetail.nn.ops import Ops
from dovetail.nn.platform import Platform
from dovetail.nn.step import Step


@dataclass(frozen=True)
class CacheSize:
    """What memory allows, in blocks (the null block included) and tokens."""

    blocks: int
    tokens: int
    bytes: int


class ModelRunner:
    """One model, its KV cache, and the forward pass.

    Args:
        plan: every part by dotted name.
        block_size: tokens in a KV-cache block.
        progress: of loading, called with (layers done, layers in all).

    Raises:
        CheckpointError: the checkpoint does not fit the model.
    """

    def __init__(self, plan: Plan, block_size: int, progress: Progress | None = None) -> None:
        self.plan = plan
        self.dtype: torch.dtype = getattr(torch, plan.dtype)
        self.platform: Platform = import_dotted(plan.platform.part.target)()
        self.device = self.platform.device
        self.block_size = block_size
        backend: type[AttentionBackend] = import_dotted(plan.attention.part.target)
        self.attention = backend(
            device=self.device, dtype=self.dtype, kv_dtype=getattr(torch, plan.kv_dtype), block_size=block_size
        )
        self.ctx = Context(
            device=self.device,
            dtype=self.dtype,
            ops=Ops(self.platform.operations()),
            attention=self.attention,
            max_tokens=plan.max_model_len,
        )
        model_class: type[Any] = import_dotted(plan.model_part.part.target)
        with torch.inference_mode():
            self.model: CausalLM = model_class(plan.model_config_object(), self.ctx)
            self.model.to(self.device).eval()
            self._load(progress)
        self.specs = frozenset(layer.spec for layer in self.ctx.attention_layers)

    def _load(self, progress: Progress | None) -> None:
        plan = self.plan
        choices = {
            (w.kind, w.type): KernelChoice(
                import_dotted(w.format.part.target), [(k.name, import_dotted(k.target)) for k in w.kernels]
            )
            for w in plan.weights
        }
        naming = import_dotted(plan.naming) if plan.naming else None
        self.reader = WeightReader(self.ctx, choices, plan.config, naming)
        self.reader.load(import_dotted(plan.loader.part.target)(plan.checkpoint), progress)
        return_freed_memory()

    @property
    def weight_bytes(self) -> int:
        return sum(layer.nbytes for layer in dict.fromkeys(self.ctx.layers.values()))

    def size_cache(self, utilization: float, max_seqs: int) -> CacheSize:
        """How many blocks fit into what is free, and no more than ``max_seqs`` of the longest sequences could use.

        Raises:
            ResolutionError: not even one sequence of some length fits.
        """
        per_block = sum(self.attention.block_bytes(layer.spec) for layer in self.ctx.attention_layers)
        budget = self.platform.kv_cache_bytes(utilization)
        useful = 1 + max_seqs * -(-self.plan.max_model_len // self.block_size)
        blocks = min(budget // per_block, useful)
        if blocks < 2:
            raise ResolutionError(
                f"wanted memory for at least 2 blocks of the KV cache ({2 * per_block / 2**20:.1f} MiB), found {budget / 2**20:.1f} MiB",
                "give the cache more memory, lower --block-size, or take a smaller model",
            )
        return CacheSize(blocks, (blocks - 1) * self.block_size, blocks * per_block)

    def allocate(self, blocks: int) -> None:
        for layer in self.ctx.attention_layers:
            layer.cache = self.attention.allocate(layer.spec, blocks)

    @torch.inference_mode()
    def forward(self, step: Step) -> Tensor:
        """Compute a step; logits ``[L, V]`` of ``step.logit_rows``."""
        step.attention = self.attention.prepare(step, self.specs)
        hidden = self.model(step)
        return self.model.logits(hidden[step.logit_rows])
