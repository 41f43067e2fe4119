"""Writes ``reference.pt``: weights that bitsandbytes quantized, with the matrices that it dequantizes.

Run with the packages bitsandbytes (0.50.2 wrote the file) and torch, from anywhere:

    python plugins/quant/bitsandbytes/tests/make_reference.py
"""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
from bitsandbytes import functional

N, K = 36, 128


def main() -> None:
    cases = {}
    generator = torch.Generator().manual_seed(0)
    for kind, block, nested in itertools.product(("nf4", "fp4"), (64, 128), (False, True)):
        matrix = torch.randn(N, K, generator=generator)
        codes, state = functional.quantize_4bit(matrix, blocksize=block, quant_type=kind, compress_statistics=nested)
        described = {f".weight.{name}": value for name, value in state.as_dict(packed=True).items()}
        cases[f"{kind}, blocks of {block}{', double' if nested else ''}"] = {
            "config": {"load_in_4bit": True, "bnb_4bit_quant_type": kind, "bnb_4bit_use_double_quant": nested},
            "dense": functional.dequantize_4bit(codes, state),
            ".weight": codes,
            **described,
        }
    matrix = torch.randn(N, K, generator=generator)
    codes, rows, _ = functional.int8_vectorwise_quant(matrix.half())
    cases["int8"] = {
        "config": {"load_in_8bit": True},
        "dense": functional.int8_vectorwise_dequant(codes, rows).float(),
        ".weight": codes,
        ".SCB": rows,
        ".weight_format": torch.tensor(0, dtype=torch.uint8),
    }
    torch.save(cases, Path(__file__).with_name("reference.pt"))


if __name__ == "__main__":
    main()
