"""What a model's weights are made of is counted without reading one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch

from dovetail.api import Checkpoint, CheckpointError, LazyTensor
from dovetail.engine.step.weight_groups import WeightCounter, WeightGroup

from .. import attention_models
from ..attention_models import make_plan

LAYERS = [{}, {}]
TYPES = {"float32": 13, "float16": 1}


def _refuse() -> torch.Tensor:
    raise AssertionError("a weight was read")


def _inspect(path: str, files: tuple[str, ...]) -> Checkpoint:
    return Checkpoint(path=path, files=files, tensor_types=TYPES, config_file=f"{path}/config.json")


def _load(
    checkpoint: Checkpoint, expected: Mapping[str, tuple[int, ...]], device: torch.device
) -> Iterator[LazyTensor]:
    for name, shape in expected.items():
        yield LazyTensor(name, shape, "float16" if name.startswith("head") else "float32", _refuse)


def test_weights_are_counted_by_what_they_are_made_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_models, "inspect", _inspect)
    monkeypatch.setattr(attention_models, "load", _load)
    counter = WeightCounter(make_plan(tmp_path, LAYERS), 16)
    made_of = ((".weight", "float32"),)
    assert counter.groups_of_weights == {
        WeightGroup("linear", "dense", "float32", made_of): 4 * len(LAYERS) + 1,
        WeightGroup("embedding", "dense", "float32", made_of): 2,
        WeightGroup("head", "dense", "float16", ((".weight", "float16"),)): 1,
    }
    assert (counter.plain, counter.tied) == (len(LAYERS), [])
    lines = counter.describe()
    assert lines[1].startswith("weights        12 by the tensors that each is made of; 2 other tensors are")
    assert lines[3] == "9 linear, each of .weight (float32)"
    assert lines[4].startswith("  format       dense (under-test 0)")
    assert lines[5].startswith("  kernel       dense (under-test 0)")
    assert ", else dequantize (under-test 0)" in lines[5]


def test_what_does_not_fit_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_models, "load", lambda *_: iter(()))
    with pytest.raises(CheckpointError, match="does not hold the tensors that the model expects"):
        WeightCounter(make_plan(tmp_path, LAYERS), 16)
