"""Writes ``reference.pt``: weights that compressed-tensors compressed, with the matrices that it gives back.

Run with the packages compressed-tensors (0.20.1 wrote the file) and torch, from anywhere:

    python plugins/quant/compressed-tensors/tests/make_reference.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from compressed_tensors.compressors.base import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

N, K = 32, 64
INT: dict[str, Any] = {"type": "int"}
FLOAT: dict[str, Any] = {"type": "float", "num_bits": 8}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{
        f"{bits} bits by {scope}, {'symmetric' if sym else 'with zero-points'}": (
            "pack-quantized",
            {
                **INT,
                "num_bits": bits,
                "symmetric": sym,
                **({"strategy": scope} | ({"group_size": 16} if scope == "group" else {})),
            },
        )
        for bits in (2, 3, 4, 8)
        for scope in ("channel", "group")
        for sym in (True, False)
    },
    "int8 by channel": ("int-quantized", {**INT, "num_bits": 8, "strategy": "channel"}),
    "int8 by tensor": ("int-quantized", {**INT, "num_bits": 8, "strategy": "tensor"}),
    "int8 with zero-points": ("int-quantized", {**INT, "num_bits": 8, "strategy": "channel", "symmetric": False}),
    "int8 by group": ("naive-quantized", {**INT, "num_bits": 8, "strategy": "group", "group_size": 16}),
    "fp8 by tensor": ("float-quantized", {**FLOAT, "strategy": "tensor"}),
    "fp8 by channel": ("float-quantized", {**FLOAT, "strategy": "channel"}),
    "fp8 by block": ("float-quantized", {**FLOAT, "strategy": "block", "block_structure": [16, 32]}),
    "nvfp4": ("nvfp4-pack-quantized", {"type": "float", "num_bits": 4, "strategy": "tensor_group", "group_size": 16}),
    "mxfp4": (
        "mxfp4-pack-quantized",
        {"type": "float", "num_bits": 4, "strategy": "group", "group_size": 32, "scale_dtype": torch.uint8},
    ),
    "mxfp8": (
        "mxfp8-quantized",
        {"type": "float", "num_bits": 8, "strategy": "group", "group_size": 32, "scale_dtype": torch.uint8},
    ),
}


def spread(matrix: torch.Tensor, args: QuantizationArgs) -> torch.Tensor:
    """The matrix as numbers ``[..., n]`` that share a scale."""
    if args.strategy == "channel":
        return matrix
    if args.strategy == "tensor":
        return matrix.reshape(1, -1)
    if args.strategy == "block":
        rows, columns = args.block_structure
        return matrix.unflatten(1, (-1, columns)).unflatten(0, (-1, rows)).transpose(1, 2).flatten(2)
    return matrix.unflatten(1, (-1, args.group_size))


def main() -> None:
    cases = {}
    generator = torch.Generator().manual_seed(0)
    for name, (storage, options) in CASES.items():
        args = QuantizationArgs(**options)
        matrix = torch.randn(N, K, generator=generator)
        parts = spread(matrix, args)
        whole = generate_gparam(matrix.amin(), matrix.amax()) if storage == "nvfp4-pack-quantized" else None
        scales, zeros = calculate_qparams(parts.amin(-1, keepdim=True), parts.amax(-1, keepdim=True), args, whole)
        shape = (1,) if args.strategy == "tensor" else (*parts.shape[:-1], 1)[:2]
        state = {"weight": matrix, "weight_scale": scales.reshape(shape)}
        if not args.symmetric:
            state["weight_zero_point"] = zeros.reshape(shape)
        if whole is not None:
            state["weight_global_scale"] = whole
        scheme = QuantizationScheme(targets=["Linear"], weights=args)
        compressor = BaseCompressor.get_value_from_registry(storage)
        stored = compressor.compress(dict(state), scheme)
        dense = compressor.decompress(dict(stored), scheme)["weight"].float()
        weights = args.model_dump()
        weights.pop("scale_dtype", None)
        config = {"format": storage, "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}}
        cases[name] = {"config": config, "dense": dense} | {
            f".{key}": value.contiguous() for key, value in stored.items()
        }
    torch.save(cases, Path(__file__).with_name("reference.pt"))


if __name__ == "__main__":
    main()
