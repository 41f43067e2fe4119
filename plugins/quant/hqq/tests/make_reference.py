"""Writes ``reference.pt``: weights that HQQ quantized, as its layers save them, with the matrices that they stand for.

Run with the packages hqq (0.2.8 wrote the file) and torch, from anywhere:

    python plugins/quant/hqq/tests/make_reference.py
"""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
from hqq.core.quantize import BaseQuantizeConfig, HQQLinear

N, K = 16, 64
KEPT = ("W_q", "scale", "zero", "nbits", "group_size", "axis", "shape", "view_as_float")


def main() -> None:
    cases = {}
    generator = torch.Generator().manual_seed(0)
    for bits, axis, group in itertools.product((1, 2, 3, 4, 8), (1, 0), (8, 16)):
        config = BaseQuantizeConfig(nbits=bits, group_size=group, axis=axis)
        linear = torch.nn.Linear(K, N, bias=False)
        linear.weight.data = torch.randn(N, K, generator=generator)
        layer = HQQLinear(linear, config, compute_dtype=torch.float32, device="cpu")
        state = layer.state_dict()
        cases[f"{bits} bits, axis {axis}, groups of {group}"] = {
            "config": {"quant_config": config, "skip_modules": ["lm_head"]},
            "dense": layer.dequantize().float().clone(),
            **{f".{name}": state[name].detach().clone().contiguous() for name in KEPT},
        }
    torch.save(cases, Path(__file__).with_name("reference.pt"))


if __name__ == "__main__":
    main()
