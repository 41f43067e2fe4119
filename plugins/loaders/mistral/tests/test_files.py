"""Folders whole, sharded, incomplete and damaged, and whose they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from dovetail_loaders_mistral import dovetail_register_loaders
from dovetail_loaders_mistral.inspection import accepts, find_tokenizer, inspect
from dovetail_loaders_mistral.loading import load
from safetensors.torch import save_file

from dovetail.api import CheckpointError
from dovetail.testing import check_loader

CPU = torch.device("cpu")
TENSORS = {
    "layers.0.attention.wq.weight": torch.arange(12, dtype=torch.float32).view(3, 4),
    "norm.weight": torch.ones(5, dtype=torch.bfloat16),
    "output.weight": torch.ones(5, 2, dtype=torch.bfloat16),
    "output.qscale_weight": torch.tensor(2.0),
    "none": torch.empty(0, 3, dtype=torch.float16),
    "fp8": torch.ones(2, 2).to(torch.float8_e4m3fn),
}
PARAMS: dict[str, Any] = {"dim": 8, "n_layers": 1}


def write(folder: Path, *names: str, **params: Any) -> Path:
    for i, name in enumerate(names):
        save_file({f"t{i}": torch.full((2,), float(i))}, folder / name)
    (folder / "params.json").write_text(json.dumps(PARAMS | params))
    return folder


def consolidated(folder: Path) -> tuple[str, ...]:
    return tuple(map(str, sorted(folder.glob("consolidated*.safetensors"))))


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        inspect(str(folder), consolidated(folder))
    assert caught.value.hint
    return str(caught.value)


def test_card(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "consolidated.safetensors")
    write(tmp_path)
    (card,) = dovetail_register_loaders()
    check_loader(card, tmp_path, TENSORS)


@pytest.mark.parametrize(("params", "architecture"), [({}, "mistral"), ({"moe": {"num_experts": 2}}, "mixtral")])
def test_description(tmp_path: Path, params: dict[str, Any], architecture: str) -> None:
    save_file(TENSORS, tmp_path / "consolidated.safetensors")
    (tmp_path / "generation_config.json").write_text('{"temperature": 0.15, "eos_token_id": 7}')
    found = inspect(str(write(tmp_path, **params)), consolidated(tmp_path))
    assert (found.naming, found.architecture) == ("mistral", architecture)
    assert found.metadata["params"] == PARAMS | params
    assert found.metadata["file"] == str(tmp_path / "params.json")
    assert found.metadata["dtype"] == "bfloat16"  # of most numbers to compute with
    assert found.generation_config == {"temperature": 0.15}


SHARDS = ("consolidated-00001-of-00002.safetensors", "consolidated-00002-of-00002.safetensors")


def test_shards(tmp_path: Path) -> None:
    write(tmp_path, *SHARDS)
    found = inspect(str(tmp_path), consolidated(tmp_path))
    assert [Path(file).name for file in found.files] == [*SHARDS]
    assert {t.name: t.read().tolist() for t in load(found, {}, CPU)} == {"t0": [0.0, 0.0], "t1": [1.0, 1.0]}
    (tmp_path / SHARDS[0]).unlink()
    assert SHARDS[0] in refusal(tmp_path)


def test_an_index_decides_between_two_tensors_of_one_name(tmp_path: Path) -> None:
    names = ("consolidated.a.safetensors", "consolidated.b.safetensors")
    for i, name in enumerate(names):
        save_file({"t": torch.full((2,), float(i)), f"t{i}": torch.ones(1)}, tmp_path / name)
    write(tmp_path)
    told = refusal(tmp_path)
    assert all(name in told for name in names)
    assert "'t'" in told
    table = {"weight_map": {"t0": names[0], "t1": names[1], "t": names[1]}}
    (tmp_path / "consolidated.safetensors.index.json").write_text(json.dumps(table))
    found = {t.name: t for t in load(inspect(str(tmp_path), consolidated(tmp_path)), {}, CPU)}
    assert found["t"].read().tolist() == [1.0, 1.0]


def test_a_file_alone(tmp_path: Path) -> None:
    write(tmp_path, "consolidated.safetensors", "consolidated.other.safetensors")
    file = tmp_path / "consolidated.other.safetensors"
    found = inspect(str(file), (str(file),))
    assert found.files == (str(file),)
    assert accepts(str(file), (str(file),)) is None


def test_a_file_that_becomes_shorter(tmp_path: Path) -> None:
    write(tmp_path, "consolidated.safetensors")
    (tensor,) = load(inspect(str(tmp_path), consolidated(tmp_path)), {}, CPU)
    file = tmp_path / "consolidated.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="it changed meanwhile"):
        tensor.read()


def test_what_is_accepted(tmp_path: Path) -> None:
    write(tmp_path, "consolidated.safetensors")
    files = consolidated(tmp_path)
    assert accepts(str(tmp_path), files) is None
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_text("{}")
    assert accepts(str(tmp_path), files) is None  # the only weights
    save_file({"t": torch.ones(1)}, tmp_path / "model.safetensors")
    assert "in the form of transformers" in str(accepts(str(tmp_path), files))
    (tmp_path / "tokenizer.json").unlink()
    assert accepts(str(tmp_path), files) is None
    (tmp_path / "params.json").unlink()
    assert "params.json" in str(accepts(str(tmp_path), files))
    assert "wanted params.json" in refusal(tmp_path)


def test_the_file_of_the_tokenizer(tmp_path: Path) -> None:
    assert find_tokenizer(tmp_path) is None
    for name in ("tokenizer.model", "tokenizer.model.v3", "tokenizer.model.v11", "tekken.json"):
        (tmp_path / name).touch()
        assert find_tokenizer(tmp_path) == tmp_path / name


@pytest.mark.parametrize("text", ["[]", "{", '{"a": 1'])
def test_damaged_params(tmp_path: Path, text: str) -> None:
    write(tmp_path, "consolidated.safetensors")
    (tmp_path / "params.json").write_text(text)
    assert "params.json" in refusal(tmp_path)
