"""Checkpoints of torch.save: both layouts, whole, sharded and wrapped, damaged, and with code in them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from dovetail_loaders_torch import dovetail_register_loaders
from dovetail_loaders_torch.contents import STORAGES
from dovetail_loaders_torch.inspection import inspect
from dovetail_loaders_torch.loading import load

from dovetail.api import CheckpointError
from dovetail.testing import check_loader

CPU = torch.device("cpu")
TENSORS = {
    "a.weight": torch.arange(12, dtype=torch.float32).view(3, 4),
    "b.weight": torch.ones(5, dtype=torch.bfloat16),
    "scale": torch.tensor(2.0),
    "none": torch.empty(0, 3, dtype=torch.float16),
    "turned": torch.arange(6, dtype=torch.int32).view(2, 3).T,
}


def read(path: Path, *files: Path) -> dict[str, torch.Tensor]:
    found = {}
    for lazy in load(inspect(str(path), tuple(map(str, files))), {}, CPU):
        found[lazy.name] = lazy.read()
        assert (lazy.type, lazy.shape) == (
            str(found[lazy.name].dtype).removeprefix("torch."),
            tuple(found[lazy.name].shape),
        )
    return found


def refusal(file: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        inspect(str(file), ())
    assert caught.value.hint
    assert file.name in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("zipped", [True, False], ids=["archive", "old"])
def test_card(tmp_path: Path, zipped: bool) -> None:
    torch.save(TENSORS, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    (tmp_path / "config.json").write_text("{}")
    (card,) = dovetail_register_loaders()
    check_loader(card, tmp_path, TENSORS)


@pytest.mark.parametrize("name", STORAGES)
def test_every_dtype(tmp_path: Path, name: str) -> None:
    file = tmp_path / "w.pt"
    value = torch.arange(16, dtype=torch.uint8).remainder(2).view(getattr(torch, STORAGES[name][0]))
    torch.save({"t": value}, file)
    assert torch.equal(read(file)["t"], value)


def test_state_dictionaries_of_modules_and_wrapped_ones(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    state = module.state_dict()
    parameters = OrderedDict(module.named_parameters())
    for index, saved in enumerate(
        (state, parameters, {"state_dict": state, "step": 7}, {"model": state, "args": None})
    ):
        file = tmp_path / f"{index}.pt"
        torch.save(saved, file)
        wanted = parameters if saved is parameters else state
        found = read(file)
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_tensors_of_one_storage(tmp_path: Path) -> None:
    whole = torch.arange(20.0)
    saved = {"x": whole[3:9].view(2, 3), "y": whole[::2], "tied": whole}
    torch.save(saved, tmp_path / "w.bin")
    assert all(torch.equal(value, saved[name]) for name, value in read(tmp_path / "w.bin").items())


def test_shards_and_training_states(tmp_path: Path) -> None:
    names = [f"pytorch_model-{i:05}-of-00002.bin" for i in (1, 2)]
    for i, name in enumerate(names):
        torch.save({f"t{i}": torch.full((2,), float(i))}, tmp_path / name)
    torch.save({"lr": 1.0}, tmp_path / "optimizer.bin")
    files = sorted(tmp_path.glob("*.bin"))
    assert read(tmp_path, *files).keys() == {"t0", "t1"}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"t0": names[0], "t1": names[1]}}))
    assert read(tmp_path, *files).keys() == {"t0", "t1"}
    (tmp_path / names[1]).unlink()
    with pytest.raises(CheckpointError, match=r"missing: pytorch_model-00002-of-00002\.bin"):
        inspect(str(tmp_path), tuple(map(str, files[1:2])))


def test_archives_are_mapped(tmp_path: Path) -> None:
    file = tmp_path / "w.bin"
    torch.save(TENSORS, file)
    (lazy, *_) = load(inspect(str(file), ()), {}, CPU)
    assert lazy.read().data_ptr() == lazy.read().data_ptr()
    assert str(file) in Path(f"/proc/{os.getpid()}/maps").read_text()


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["MARK"],)


@pytest.mark.parametrize("zipped", [True, False], ids=["archive", "old"])
def test_code_is_refused_by_name_and_not_run(tmp_path: Path, zipped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARK", str(tmp_path / "run"))
    file = tmp_path / "w.bin"
    torch.save({"w": torch.ones(2), "e": Evil()}, file, _use_new_zipfile_serialization=zipped)
    assert "mkdir' to be called, wanted tensors alone" in refusal(file)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("saved", "told"),
    [({}, "no tensors by name"), ([torch.ones(2)], "no tensors by name"), ({"step": 3}, "no tensors by name")],
)
def test_files_without_weights(tmp_path: Path, saved: Any, told: str) -> None:
    torch.save(saved, tmp_path / "w.bin")
    assert told in refusal(tmp_path / "w.bin")


def test_what_is_no_such_file(tmp_path: Path) -> None:
    for index, content in enumerate((b"", b"PK\x03\x04", b"hello", b"\x80\x02}q\x00.", bytes(3000))):
        file = tmp_path / f"{index}.bin"
        file.write_bytes(content)
        assert "is no file of torch.save" in refusal(file)


def test_two_files_with_one_tensor(tmp_path: Path) -> None:
    for name in ("a.bin", "b.bin"):
        torch.save({"t": torch.ones(1)}, tmp_path / name)
    with pytest.raises(CheckpointError, match="'t' stands both in"):
        inspect(str(tmp_path), (str(tmp_path / "a.bin"), str(tmp_path / "b.bin")))


def test_inspection_does_without_torch(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "w.bin")
    code = (
        "import sys; from dovetail_loaders_torch.inspection import inspect; "
        f"print(inspect({str(tmp_path / 'w.bin')!r}, ()).tensor_types, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "{'bfloat16': 1, 'float16': 1, 'float32': 2, 'int32': 1} False"
