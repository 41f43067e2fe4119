"""GPTQ's weights (Frantar et al., 2023) as AutoGPTQ and GPTQModel store them.

Codes are packed along the columns, zero-points along the rows, both into 32-bit words. Everything is transposed: a
column of the matrix is a row of the tensors.

Letters: N rows, K columns, G groups in a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dovetail.api import LazyTensor, ModuleNames
from dovetail.nn import (
    Axis,
    Codes,
    Components,
    Field,
    GroupedWeight,
    QuantFormat,
    WeightName,
    packed_axis,
    read_tensor,
    unpack_integers,
)
from dovetail_quant_gptq.config import Changes, GptqConfig

LEFT_OUT = "-:"
SCALES = (torch.float16, torch.bfloat16, torch.float32)


@dataclass(frozen=True, eq=False, kw_only=True)
class GptqWeight(GroupedWeight):
    """A weight of GPTQ.

    Attributes:
        words: the codes, int32 ``[K * bits / 32, N]``.
        scales: ``[G, N]``.
        zeros: the zero-points, int32 ``[G, N * bits / 32]``; None if all are in the middle of the codes.
        offset: that is added to the stored zero-points.
    """

    words: Tensor
    scales: Tensor
    zeros: Tensor | None
    offset: int

    def fields(self) -> dict[str, Field]:
        shared = Axis(0, self.group) if self.groups is None and len(self.scales) > 1 else None
        found = {
            "words": Field(self.words, rows=Axis(1), columns=packed_axis(0, self.bits)),
            "scales": Field(self.scales, rows=Axis(1), columns=shared),
        }
        if self.zeros is not None:
            found["zeros"] = Field(self.zeros, rows=packed_axis(1, self.bits), columns=shared)
        if self.groups is not None:
            found["groups"] = Field(self.groups, columns=Axis(0))
        return found

    def unpack(self) -> Codes:
        zeros: Tensor | int = 1 << (self.bits - 1)
        if self.zeros is not None:
            zeros = unpack_integers(self.zeros, self.bits, 1).t().float() + self.offset
        return Codes(unpack_integers(self.words, self.bits, 0).t(), self.scales.t(), zeros)


class GptqFormat(QuantFormat):
    """Reads GPTQ's weights, each with what the configuration says of its layer."""

    config: GptqConfig

    def __init__(self, config: GptqConfig) -> None:
        super().__init__(config)
        self._rules: list[tuple[ModuleNames, Changes | None]] = [
            (
                ModuleNames([f"re:{rule.removeprefix(LEFT_OUT).removeprefix('+:')}"]),
                None if rule.startswith(LEFT_OUT) else changes,
            )
            for rule, changes in config.dynamic.items()
        ]
        modules = config.modules_in_block_to_quantize
        self._quantized = None if modules is None else ModuleNames([name for group in modules for name in group])

    def config_of(self, weight: WeightName) -> GptqConfig | None:
        """What holds for a weight; None if it is left out. The first of the rules whose expression matches decides."""
        for names, changes in self._rules:
            if weight.name in names:
                return None if changes is None else self.config.model_copy(update=changes.model_dump(exclude_none=True))
        if weight.kind == "head":
            return self.config if self.config.lm_head else None
        if self._quantized is not None and weight.name not in self._quantized:
            return None
        return self.config

    def components(self, weight: WeightName) -> Components | None:
        if (config := self.config_of(weight)) is None:
            return None
        required, optional = (".qweight", ".qzeros", ".scales"), (".bias",)
        if config.desc_act and not config.static_groups and config.group_size != -1:
            return Components((*required, ".g_idx"), optional)
        return Components(required, (*optional, ".g_idx"))

    def shape(self, weight: WeightName, tensors: Mapping[str, LazyTensor]) -> tuple[int, ...]:
        words, *others = tensors[".qweight"].shape
        return *others, words * 32 // self._config(weight).bits

    def load(
        self, weight: WeightName, tensors: Mapping[str, LazyTensor], device: torch.device, dtype: torch.dtype
    ) -> GptqWeight:
        (n, k), config = self.shape(weight, tensors), self._config(weight)
        group = k if config.group_size == -1 else config.group_size
        count = -(-k // group)
        offset = 1 if config.checkpoint_format == "gptq" else 0
        zeros: Tensor | None = read_tensor(
            tensors[".qzeros"], (count, packed_axis(0, config.bits).length(n)), dtypes=(torch.int32,)
        )
        middle = (1 << (config.bits - 1)) - offset
        if zeros is not None and bool((unpack_integers(zeros, config.bits, 1) == middle).all()):
            zeros = None
        groups = None
        if ".g_idx" in tensors:
            groups = read_tensor(tensors[".g_idx"], (k,), dtypes=(torch.int32,), below=count)
            if torch.equal(groups, torch.arange(k, dtype=groups.dtype) // group):
                groups = None  # neighbours after all
        return GptqWeight(
            shape=(n, k),
            type="int32",
            bits=config.bits,
            group=group,
            words=read_tensor(tensors[".qweight"]).to(device),
            scales=read_tensor(tensors[".scales"], (count, n), dtypes=SCALES, finite=True).to(device),
            zeros=None if zeros is None else zeros.to(device),
            groups=None if groups is None else groups.to(device),
            offset=offset,
        )

    def _config(self, weight: WeightName) -> GptqConfig:
        config = self.config_of(weight)
        assert config is not None, "a weight that components() leaves out is not read"
        return config
