"""The conformance kit on weights of every form, and on what published configurations say."""

from __future__ import annotations

import dovetail_quant_fp8
import pytest
import torch
from dovetail_quant_fp8.config import Fp8Config
from dovetail_quant_fp8.format import Fp8BlockFormat
from torch import Tensor

from dovetail.api import CheckpointError
from dovetail.nn import WeightName
from dovetail.testing import WeightSample, check_format, check_registration, lazy_tensors

CARDS = {card.name: card for card in dovetail_quant_fp8.dovetail_register_quantization()}
CPU = torch.device("cpu")
UP = WeightName("model.layers.0.mlp.up_proj", "linear")
PUBLISHED = {
    "deepseek": {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [16, 16]},
    "static": {"activation_scheme": "static", "ignored_layers": ["lm_head"], "quant_method": "fp8"},
    "fbgemm": {"activation_scale_ub": 1200.0, "modules_to_not_convert": ["lm_head"], "quant_method": "fbgemm_fp8"},
    "transformers": {"activation_scheme": "static", "weight_block_size": None, "quant_method": "fp8"},
}


def sample(
    config: str, scale: str, shape: tuple[int, ...], more: dict[str, Tensor], dtype: torch.dtype
) -> WeightSample:
    """A weight ``[37, 40]``, whose scales have a shape."""
    n, k = 37, 40
    generator = torch.Generator().manual_seed(n)
    values = (10 * torch.randn(n, k, generator=generator)).to(dtype)
    scales = 0.01 + torch.rand(shape, generator=generator)
    table = scales.reshape(shape if len(shape) == 2 else (-1, 1))
    rows, columns = (
        1 if size == full else 16 if size > 1 else full for size, full in zip(table.shape, (n, k), strict=True)
    )
    dense = torch.tensor(
        [[float(values[i, j]) * float(table[i // rows, j // columns]) for j in range(k)] for i in range(n)]
    )
    tensors = {".weight": values, scale: scales, **more}
    lazy = lazy_tensors({f"layer{suffix}": value for suffix, value in tensors.items()})
    given = next((value.reshape(-1) for name, value in more.items() if name != ".input_scale_ub"), None)
    return WeightSample(dict(zip(tensors, lazy, strict=True)), dense, config=PUBLISHED[config], input_scale=given)


def test_registration() -> None:
    check_registration(dovetail_quant_fp8)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_every_form(dtype: torch.dtype) -> None:
    one = torch.tensor(0.25)
    types = {str(dtype).removeprefix("torch."): ("scaled_float",)}
    blocks = [
        sample("deepseek", ".weight_scale_inv", (3, 3), {}, dtype),
        sample("transformers", ".weight_scale_inv", (), {".activation_scale": one}, dtype),
    ]
    rows = [
        sample("static", ".weight_scale", (), {".input_scale": one}, dtype),
        sample("static", ".weight_scale", (1,), {".input_scale": one[None]}, dtype),
        sample("static", ".weight_scale", (37,), {}, dtype),
        sample("fbgemm", ".weight_scale", (37, 1), {".input_scale_ub": torch.tensor([1200.0])}, dtype),
    ]
    for name, forms in (("fp8-blocks", blocks), ("fp8", rows)):
        check_format(CARDS[name].model_copy(update={"types": types}), forms)


def test_scales_of_other_blocks_are_refused() -> None:
    values = torch.zeros(32, 32).to(torch.float8_e4m3fn)
    (weight, scales) = lazy_tensors({f"{UP.name}.weight": values, f"{UP.name}.weight_scale_inv": torch.ones(4, 4)})
    reader = Fp8BlockFormat(Fp8Config.model_validate(PUBLISHED["deepseek"]))
    with pytest.raises(CheckpointError, match=r"weight_scale_inv is \[4, 4\], wanted \[2, 2\]"):
        reader.load(UP, {".weight": weight, ".weight_scale_inv": scales}, CPU, torch.float32)


@pytest.mark.parametrize(
    ("key", "value"),
    [("activation_scheme", "other"), ("weight_block_size", [128]), ("weight_block_size", [0, 128])],
)
def test_what_cannot_be_read_is_refused(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=key):
        Fp8Config.model_validate({key: value})
