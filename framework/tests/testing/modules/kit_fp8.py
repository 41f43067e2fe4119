"""8-bit floats as checkpoints store them: with one scale, one a row, or one for each block of 128 x 128.

Letters: N rows, K columns.
"""

from collections.abc import Mapping

import torch
from kit_quant_configs import Fp8Config

from dovetail.api import LazyTensor
from dovetail.nn import Components, QuantFormat, ScaledWeight, WeightName, read_scales, read_tensor


class Fp8Format(QuantFormat):
    config: Fp8Config

    def components(self, weight: WeightName) -> Components | None:
        if weight.name in self.config.ignored_layers:
            return None
        scale = ".weight_scale_inv" if self.config.weight_block_size else ".weight_scale"
        return Components((".weight", scale), (".input_scale",) if self.config.activation_scheme == "static" else ())

    def load(
        self, weight: WeightName, tensors: Mapping[str, LazyTensor], device: torch.device, dtype: torch.dtype
    ) -> ScaledWeight:
        n, k = tensors[".weight"].shape
        wanted = self.config.weight_block_size
        name = ".weight_scale_inv" if wanted else ".weight_scale"
        scales, block = read_scales(tensors[name], (n, k), wanted)
        given = tensors.get(".input_scale")
        return ScaledWeight(
            shape=(n, k),
            type=tensors[".weight"].type,
            values=read_tensor(tensors[".weight"]).to(device),
            scales=scales.to(device),
            block=block,
            input_scale=None if given is None else read_tensor(given, (1,), finite=True).float().to(device),
        )
