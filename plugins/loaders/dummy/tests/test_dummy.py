"""Names, shapes and values of weights that are made up."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import dovetail_loaders_dummy
import pytest
import torch
from dovetail_loaders_dummy.inspection import inspect
from dovetail_loaders_dummy.loading import PERIOD, SPAN, load

from dovetail.api import Checkpoint
from dovetail.testing import check_loader, check_registration

CPU = torch.device("cpu")
SHAPES = {
    "model.embed_tokens.weight": (1100, 1024),
    "layers.0.q_proj.weight": (64, 64),
    "layers.1.q_proj.weight": (64, 64),
    "layers.0.q_proj.bias": (64,),
    "layers.0.norm.weight": (64,),
    "layers.0.conv.weight": (4, 3, 2),
}


def tensors(device: torch.device = CPU) -> dict[str, torch.Tensor]:
    checkpoint = inspect("nowhere", ())
    found = {}
    for lazy in load(checkpoint, SHAPES, device):
        value = lazy.read()
        assert checkpoint.tensor_types.keys() == {lazy.type} == {str(value.dtype).removeprefix("torch.")}
        assert value.shape == lazy.shape
        found[lazy.name] = value
    return found


def test_registration() -> None:
    check_registration(dovetail_loaders_dummy)


def test_every_claim(tmp_path: Path) -> None:
    (card,) = dovetail_loaders_dummy.dovetail_register_loaders()
    check_loader(card, tmp_path, tensors())


def test_every_expected_tensor_comes_with_its_shape() -> None:
    assert {name: tuple(value.shape) for name, value in tensors().items()} == SHAPES


def test_matrices_and_biases_are_uniform_and_scales_are_one() -> None:
    found = tensors()
    assert torch.equal(found.pop("layers.0.norm.weight"), torch.ones(64, dtype=torch.bfloat16))
    for value in found.values():
        assert value.abs().max() <= SPAN * (1 + 2**-8)  # rounded to bfloat16
        assert len(value.unique()) > value.numel() / 4 or value.numel() > 1000
    wide = found["model.embed_tokens.weight"].double()
    assert abs(wide.mean()) < SPAN / 100
    # The standard deviation of a uniform distribution in ±a is a / sqrt(3).
    assert wide.std() == pytest.approx(SPAN / 3**0.5, rel=0.01)


def test_layers_differ_and_rows_do_not_repeat() -> None:
    found = tensors()
    assert not torch.equal(found["layers.0.q_proj.weight"], found["layers.1.q_proj.weight"])
    embedding = found["model.embed_tokens.weight"]
    assert embedding.numel() > PERIOD
    assert len(embedding.unique(dim=0)) == len(embedding)


def test_values_are_the_same_every_time() -> None:
    for a, b in zip(tensors().values(), tensors().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second device")
def test_values_are_made_on_the_device_and_are_the_same_there() -> None:
    there = tensors(torch.device("cuda"))
    for name, value in tensors().items():
        assert there[name].device.type == "cuda"
        assert torch.equal(there[name].cpu(), value)


def test_inspection_needs_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from dovetail_loaders_dummy.inspection import inspect; print(inspect('x', ()).model_dump_json()); "
        "sys.exit('torch' if 'torch' in sys.modules else None)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert Checkpoint.model_validate_json(done.stdout).files == ()
