"""Writes ``reference.pt``: weights with the matrices that AQLM makes of them.

Run with the packages aqlm (1.1.7 wrote the file) and torch, from anywhere:

    python plugins/quant/aqlm/tests/make_reference.py
"""

from __future__ import annotations

from pathlib import Path

import torch
from aqlm.utils import _dequantize_weight, pack_int_data, unpack_int_data

N, K, VECTOR = 36, 64, 8


def main() -> None:
    cases = {}
    generator = torch.Generator().manual_seed(0)
    for count, bits in ((1, 10), (2, 8), (1, 8), (4, 5)):
        # Halves with few bits, so that sums of them are halves.
        codebooks = (torch.randint(-64, 65, (count, 1 << bits, 1, VECTOR), generator=generator) / 64).half()
        scales = (torch.randint(1, 9, (N, 1, 1, 1), generator=generator) / 64).half()
        codes = pack_int_data(torch.randint(1 << bits, (N, K // VECTOR, count), generator=generator), bits)
        dense = _dequantize_weight(unpack_int_data(codes, bits), codebooks.float(), scales.float())
        cases[f"{count}x{bits}"] = {
            "config": {
                "num_codebooks": count,
                "nbits_per_codebook": bits,
                "in_group_size": VECTOR,
                "out_group_size": 1,
            },
            "dense": dense.half(),
            ".codes": codes,
            ".codebooks": codebooks,
            ".scales": scales,
        }
    torch.save(cases, Path(__file__).with_name("reference.pt"))


if __name__ == "__main__":
    main()
