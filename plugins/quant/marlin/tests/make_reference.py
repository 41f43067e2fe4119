"""Writes ``reference.pt``: weights that AutoAWQ packed for Marlin (as Marlin's own layers are), with their matrices.

Run with the packages autoawq (0.2.9 wrote the file) and torch, from anywhere:

    python plugins/quant/marlin/tests/make_reference.py
"""

from __future__ import annotations

from pathlib import Path

import torch
from awq.modules.linear.marlin import WQLinear_Marlin

N, K = 128, 256


def main() -> None:
    cases = {}
    generator = torch.Generator().manual_seed(0)
    for group in (128, -1):
        count = 1 if group == -1 else K // group
        # Halves with few bits, so that what is packed is what was given.
        scales = torch.randint(1, 1024, (N, count), generator=generator) / 4096
        codes = torch.randint(16, (N, K), generator=generator)
        linear = torch.nn.Linear(K, N, bias=False)
        dense = (codes - 8) * scales[:, torch.arange(K) // (K // count)]
        linear.weight.data = dense
        module = WQLinear_Marlin.from_linear(linear, 4, K // count, scales=scales)
        cases[f"groups of {group}"] = {
            "config": {"bits": 4, "group_size": group},
            "dense": dense,
            ".B": module.qweight,
            ".s": module.scales.half(),
        }
    torch.save(cases, Path(__file__).with_name("reference.pt"))


if __name__ == "__main__":
    main()
