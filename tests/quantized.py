"""Matrices rounded to a format's numbers, with the tensors that its checkpoints have for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

GROUP = 32
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Method:
    """A way to store matrices.

    Attributes:
        config: its ``quantization_config``.
        quantize: a matrix ``[N, K]`` → its tensors by component, and the matrix that they stand for.
    """

    config: dict[str, Any]
    quantize: Callable[[Tensor], tuple[Tensors, Tensor]]


def pack(codes: Tensor, bits: int, dim: int) -> Tensor:
    """Codes one after the other in 32-bit words, lowest bits first."""
    flat = codes.movedim(dim, -1).numpy().astype(np.uint8)
    wide = np.unpackbits(flat[..., None], axis=-1, bitorder="little")[..., :bits]
    words = np.packbits(wide.reshape(*flat.shape[:-1], -1), axis=-1, bitorder="little").view("<i4")
    return torch.from_numpy(words.copy()).movedim(-1, dim).contiguous()


def round_to_groups(matrix: Tensor, bits: int, sym: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Codes ``[N, K]``, scales and zero-points ``[N, G]``, and the matrix."""
    parts = matrix.unflatten(1, (-1, GROUP))
    top = (1 << bits) - 1
    low, high = parts.amin(-1), parts.amax(-1)
    if sym:
        high = torch.maximum(-low, high)
        low = -high
    scales = ((high - low) / top).half()
    zeros = torch.full_like(scales, (top + 1) // 2) if sym else (-low / scales).round().clamp(1, top).half()
    codes = (parts / scales[..., None] + zeros[..., None]).round().clamp(0, top)
    dense = (codes - zeros[..., None]) * scales[..., None].float()
    return codes.flatten(1).to(torch.uint8), scales, zeros.to(torch.uint8), dense.flatten(1)


def gptq(bits: int, sym: bool = True, act_order: bool = False) -> Method:
    def quantize(matrix: Tensor) -> tuple[Tensors, Tensor]:
        order = torch.arange(matrix.shape[1])
        if act_order:  # the same for layers of one input, as it is there
            order = torch.randperm(matrix.shape[1], generator=torch.Generator().manual_seed(0))
        codes, scales, zeros, dense = round_to_groups(matrix[:, order], bits, sym)
        back = order.argsort()
        tensors = {
            ".qweight": pack(codes[:, back].t(), bits, 0),
            ".qzeros": pack(zeros.t() - 1, bits, 1),
            ".scales": scales.t().contiguous(),
            ".g_idx": (back // GROUP).int(),
        }
        return tensors, dense[:, back]

    return Method(
        {"quant_method": "gptq", "bits": bits, "group_size": GROUP, "desc_act": act_order, "sym": sym}, quantize
    )


def awq(version: str) -> Method:
    def quantize(matrix: Tensor) -> tuple[Tensors, Tensor]:
        codes, scales, zeros, dense = round_to_groups(matrix, 4, sym=False)
        if version == "gemm":
            even_first = [0, 2, 4, 6, 1, 3, 5, 7]
            codes, zeros = (part.t().unflatten(1, (-1, 8))[..., even_first].flatten(1) for part in (codes, zeros))
            return {
                ".qweight": pack(codes, 4, 1),
                ".qzeros": pack(zeros, 4, 1),
                ".scales": scales.t().contiguous(),
            }, dense
        width = 32  # of scales: 4 words of 8, for groups of 32
        zeros, scales = (torch.nn.functional.pad(part, (0, width - part.shape[1])) for part in (zeros, scales))
        return {".qweight": pack(codes, 4, 1), ".qzeros": pack(zeros, 4, 1), ".scales": scales}, dense

    return Method(
        {"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": version, "zero_point": True}, quantize
    )


def fp8(block: tuple[int, int] | None) -> Method:
    def quantize(matrix: Tensor) -> tuple[Tensors, Tensor]:
        rows, columns = block or (1, matrix.shape[1])
        parts = matrix.unflatten(1, (-1, columns)).unflatten(0, (-1, rows))  # [N / rows, rows, K / columns, columns]
        scales = parts.abs().amax((1, 3), keepdim=True) / 448
        values = (parts / scales).to(torch.float8_e4m3fn)
        stored = {
            ".weight": values.reshape(matrix.shape),
            ".weight_scale_inv" if block else ".weight_scale": scales[:, 0, :, 0],
        }
        return stored, (values.float() * scales).reshape(matrix.shape)

    return Method({"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": block}, quantize)


def compressed(storage: str, **weights: Any) -> Method:
    """Of compressed-tensors; all but the head and a mixture's router."""

    def quantize(matrix: Tensor) -> tuple[Tensors, Tensor]:
        if storage == "pack-quantized":
            codes, scales, zeros, dense = round_to_groups(matrix, weights["num_bits"], weights["symmetric"])
            stored = {
                ".weight_packed": pack(codes, weights["num_bits"], 1),
                ".weight_scale": scales,
                ".weight_shape": torch.tensor(matrix.shape),
            }
            return stored if weights["symmetric"] else stored | {
                ".weight_zero_point": pack(zeros, weights["num_bits"], 0)
            }, dense
        scales = matrix.abs().amax(1, keepdim=True) / 127
        values = (matrix / scales).round().to(torch.int8)
        return {".weight": values, ".weight_scale": scales}, values * scales

    group = {"targets": ["Linear"], "weights": {"type": "int", **weights}}
    config = {"quant_method": "compressed-tensors", "format": storage, "config_groups": {"group_0": group}}
    return Method({**config, "ignore": ["lm_head", "re:.*gate$"]}, quantize)


def hqq(bits: int, axis: int) -> Method:
    """Of HQQ: groups are the rows (axis 1) or columns (axis 0) of the matrix in another shape."""

    def quantize(matrix: Tensor) -> tuple[Tensors, Tensor]:
        grid = matrix.reshape(-1, GROUP) if axis else matrix.reshape(GROUP, -1)
        top = (1 << bits) - 1
        low, high = grid.amin(axis, keepdim=True), grid.amax(axis, keepdim=True)
        scales = (high - low) / top
        zeros = -low / scales
        codes = (grid / scales + zeros).round().clamp(0, top)
        parts = codes.to(torch.uint8).unflatten(0, (8 // bits, -1))  # the first rows in the highest bits
        stored = {
            ".W_q": sum(part << 8 - bits * (place + 1) for place, part in enumerate(parts)),
            ".scale": scales,
            ".zero": zeros,
            ".nbits": torch.tensor(bits, dtype=torch.int32),
            ".group_size": torch.tensor(GROUP, dtype=torch.int32),
            ".axis": torch.tensor(axis, dtype=torch.int32),
            ".shape": torch.tensor(matrix.shape),
        }
        return stored, ((codes - zeros) * scales).reshape(matrix.shape)

    return Method({"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": bits}}}, quantize)


def marlin(matrix: Tensor) -> tuple[Tensors, Tensor]:
    """With a scale a row. Rows are a multiple of 64, columns of 16."""
    scales = (matrix.abs().amax(1, keepdim=True) / 7).half()
    codes = (matrix / scales).round().clamp(-7, 7) + 8
    apart = codes.t().reshape(matrix.shape[1] // 16, 2, 4, 2, -1, 4, 2, 8)
    tiles = apart.permute(0, 4, 7, 2, 5, 3, 6, 1).flatten(1)
    stored = {".B": pack(tiles, 4, 1), ".s": scales.view(-1, 4, 4, 2).transpose(1, 2).reshape(1, -1)}
    return stored, (codes - 8) * scales.float()


def aqlm(codebooks: int) -> Method:
    """Of AQLM: 256 vectors of 8 columns in each codebook, taken from what the others leave."""

    def quantize(matrix: Tensor) -> tuple[Tensors, Tensor]:
        scales = matrix.std(1).half()[:, None, None]
        rest = matrix.unflatten(1, (-1, 8)) / scales
        whole, books, codes = torch.zeros_like(rest), [], []
        for _ in range(codebooks):
            flat = rest.flatten(0, 1)
            books.append(flat[torch.randperm(len(flat), generator=torch.Generator().manual_seed(0))[:256]].half())
            codes.append(torch.cdist(flat, books[-1].float()).argmin(-1).view(rest.shape[:2]))
            found = books[-1][codes[-1]].float()
            whole, rest = whole + found, rest - found
        stored = {
            ".codes": torch.stack(codes, -1).to(torch.uint8).view(torch.int8),
            ".codebooks": torch.stack(books)[:, :, None].contiguous(),
            ".scales": scales[..., None],
        }
        return stored, (whole * scales.float()).flatten(1)

    sizes = {"num_codebooks": codebooks, "nbits_per_codebook": 8, "in_group_size": 8, "out_group_size": 1}
    return Method({"quant_method": "aqlm", **sizes}, quantize)


def mxfp4(matrix: Tensor) -> tuple[Tensors, Tensor]:
    """Of gpt-oss; matrices may be stacked ``[E, N, K]``."""
    positive = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
    levels = torch.cat([positive, -positive])
    parts = matrix.unflatten(-1, (-1, 32))
    exponents = (parts.abs().amax(-1) / 6).log2().ceil()
    codes = (parts / exponents.exp2()[..., None])[..., None].sub(levels).abs().argmin(-1)
    dense = levels[codes] * exponents.exp2()[..., None]
    stored = {
        "_blocks": (codes[..., ::2] | codes[..., 1::2] << 4).to(torch.uint8),
        "_scales": (exponents + 127).to(torch.uint8),
    }
    return stored, dense.flatten(-2)


METHODS: dict[str, Method] = {
    "gptq": gptq(4),
    "gptq, 3 bits, zero-points": gptq(3, sym=False),
    "gptq, 8 bits, act-order": gptq(8, act_order=True),
    "awq": awq("gemm"),
    "awq, gemv": awq("gemv"),
    "compressed-tensors": compressed("pack-quantized", num_bits=4, strategy="group", group_size=GROUP, symmetric=False),
    "compressed-tensors, INT8": compressed("int-quantized", num_bits=8, strategy="channel"),
    "fp8": fp8(None),
    "fp8, blocks": fp8((16, 32)),
    "hqq": hqq(4, 1),
    "hqq, 2 bits, axis 0": hqq(2, 0),
    "marlin": Method({"quant_method": "marlin", "group_size": -1}, marlin),
    "aqlm": aqlm(2),
}
