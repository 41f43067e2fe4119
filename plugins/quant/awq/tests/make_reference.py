"""Writes ``reference.pt``: weights that AutoAWQ packed, with the matrices that it packed.

Run with the packages autoawq (0.2.9 wrote the file) and torch, from anywhere:

    python plugins/quant/awq/tests/make_reference.py
"""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
from awq.modules.linear.gemm import WQLinear_GEMM
from awq.modules.linear.gemv import WQLinear_GEMV

N, K = 32, 256


def main() -> None:
    cases = {}
    generator = torch.Generator().manual_seed(0)
    for (version, cls), group, sym in itertools.product(
        (("gemm", WQLinear_GEMM), ("gemv", WQLinear_GEMV)), (32, 64, 128, -1), (False, True)
    ):
        count = 1 if group == -1 else K // group
        # Halves with few bits, so that what is packed is what was given.
        scales = torch.randint(1, 8, (N, count), generator=generator) / 64
        zeros = torch.full((N, count), 8.0) if sym else torch.randint(16, (N, count), generator=generator).float()
        codes = torch.randint(16, (N, K), generator=generator)
        index = torch.arange(K) // (K // count)
        linear = torch.nn.Linear(K, N, bias=False)
        linear.weight.data = (codes - zeros[:, index]) * scales[:, index]
        given = (scales, zeros) if version == "gemv" else (scales.t().contiguous(), zeros.t().contiguous())
        module = cls.from_linear(linear, 4, K if group == -1 else group, scales=given[0], zeros=given[1])
        cases[f"{version}, groups of {group}, {'symmetric' if sym else 'with zero-points'}"] = {
            "config": {"bits": 4, "group_size": group, "version": version, "zero_point": not sym},
            "dense": linear.weight.data.half(),
            ".qweight": module.qweight,
            ".scales": module.scales.half(),
            ".qzeros": module.qzeros,
        }
    torch.save(cases, Path(__file__).with_name("reference.pt"))


if __name__ == "__main__":
    main()
