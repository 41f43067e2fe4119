"""Writes ``reference.pt``: weights that GPTQModel packed, with the matrices that it dequantizes.

Run with the packages gptqmodel (7.7.0 wrote the file) and torch, from anywhere:

    python plugins/quant/gptq/tests/make_reference.py
"""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
from gptqmodel import QuantizeConfig
from gptqmodel.nn_modules.qlinear.torch import TorchLinear
from gptqmodel.quantization.config import FORMAT
from gptqmodel.utils.model import convert_gptq_v2_to_v1_format_module

N, K, GROUP = 32, 64, 32


def main() -> None:
    cases = {}
    generator = torch.Generator().manual_seed(0)
    for bits, group, ordered, sym, version in itertools.product(
        (2, 3, 4, 8), (GROUP, -1), (False, True), (True, False), ("gptq", "gptq_v2")
    ):
        if ordered and group == -1:
            continue
        name = f"{bits} bits, groups of {group}, {'act-order, ' * ordered}{'symmetric' if sym else 'with zero-points'}, {version}"
        module = TorchLinear(bits, group, sym, ordered, K, N, format=FORMAT.GPTQ_V2)
        count = 1 if group == -1 else K // group
        index = torch.arange(K) // (K // count)
        if ordered:
            index = index[torch.randperm(K, generator=generator)]
        # Halves with few bits, so that what is packed is what was given.
        scales = torch.randint(1, 8, (N, count), generator=generator) / 64
        zeros = torch.full((N, count), float(1 << bits - 1))
        if not sym:
            zeros = torch.randint(1, 1 << bits, (N, count), generator=generator).float()
        codes = torch.randint(1 << bits, (N, K), generator=generator)
        linear = torch.nn.Linear(K, N, bias=False)
        linear.weight.data = (codes - zeros[:, index]) * scales[:, index]
        module.pack_original(linear, scales, zeros, index.int())
        module.post_init()
        module.scales = module.scales.float()
        dense = module.dequantize_weight().t().contiguous().half()
        if version == "gptq":
            convert_gptq_v2_to_v1_format_module(module, QuantizeConfig(bits=bits, group_size=group))
        cases[name] = {
            "config": {
                "bits": bits,
                "group_size": group,
                "desc_act": ordered,
                "sym": sym,
                "checkpoint_format": version,
            },
            "dense": dense,
            ".qweight": module.qweight.int(),
            ".qzeros": module.qzeros.int(),
            ".scales": module.scales.half(),
            ".g_idx": module.g_idx.int(),
        }
    torch.save(cases, Path(__file__).with_name("reference.pt"))


if __name__ == "__main__":
    main()
