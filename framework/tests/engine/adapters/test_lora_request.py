"""Finding adapters, and naming them."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from dovetail import LoRARequest
from dovetail.api import LoaderCard, RequestError, UsageError
from dovetail.engine.adapters.lora_request import (
    AdapterSource,
    LoraModule,
    check_adapter_name,
    find_adapter,
    parse_lora_modules,
)

from . import adapter_folders
from .adapter_folders import registry, write


def find(folder: Path, name: str = "a") -> AdapterSource:
    return find_adapter(name, str(folder), registry())


# -- --lora-modules, LoRARequest and names


def test_modules_are_read_in_both_spellings() -> None:
    found = parse_lora_modules(["sql=/a=b/c", '{"name": "x", "path": "o/r"}'])
    assert found == [LoraModule(name="sql", path="/a=b/c"), LoraModule(name="x", path="o/r")]


@pytest.mark.parametrize("value", ["sql", "=path", "sql=", '{"name": "x"}', '{"name": "x", "path": "y", "z": 1}', "{"])
def test_modules_that_cannot_be_read_are_named(value: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_lora_modules(["good=path", value])
    assert repr(value) in error.value.problem
    assert "good" not in error.value.problem


def test_a_name_given_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="the name 'a' stands there 2 times"):
        parse_lora_modules(["a=x", "b=y", "a=z"])


@pytest.mark.parametrize("arguments", [("", 1, "path"), ("name", 0, "path"), ("name", 1, "")])
def test_a_lora_request_lacks_nothing(arguments: tuple[str, int, str]) -> None:
    with pytest.raises(UsageError, match="LoRARequest"):
        LoRARequest(*arguments)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "has no name"),
        ("model", "a name of the model itself"),
        ("sql", "is loaded already"),
        ("a" * 257, r"at most 256 visible characters, found 257: '(a{40})'"),
        ("a" * 8_000_000, "found 8000000"),
        ("a\nb", "visible characters"),
        ("a\x1b]0;title\x07", "visible characters"),
        ("\ud800", "visible characters"),
    ],
)
def test_names_that_are_taken_are_refused(name: str, reason: str) -> None:
    with pytest.raises(RequestError, match=reason) as error:
        check_adapter_name(name, served=["model"], loaded=["sql"])
    assert error.value.param == "lora_name"
    assert len(str(error.value)) < 300
    for other in ("other", "a" * 256, "org/name:v1.0 (größer)"):
        check_adapter_name(other, served=["model"], loaded=["sql"])


# -- finding one


def test_what_was_found_travels_to_the_engine_as_json(tmp_path: Path) -> None:
    source = find(write(tmp_path, lora_alpha=float("inf")))
    assert source.config["lora_alpha"] == float("inf")
    assert [Path(file).name for file in source.checkpoint.files] == ["adapter_model.npz"]
    assert AdapterSource.model_validate_json(source.model_dump_json()) == source


def test_only_the_adapter_s_own_files_are_read(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "optimizer.npz").write_bytes(b"training leaves such files")
    assert [Path(file).name for file in find(tmp_path).checkpoint.files] == ["adapter_model.npz"]


def test_the_highest_loader_that_reads_it_is_taken(tmp_path: Path) -> None:
    card = LoaderCard(
        name="other", recognises=("*.npz",), inspect=f"{adapter_folders.__name__}:inspect", target="o:load", rank=90
    )
    assert find_adapter("a", str(write(tmp_path)), registry(card)).loader.target == "o:load"


def _without_config(folder: Path) -> None:
    (folder / "adapter_config.json").unlink()


def _with_broken_config(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{")


def _with_a_list(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("[]")


def _replace(file: Path, create: Callable[[Path], object]) -> None:
    file.unlink()
    create(file)


def _with_a_pipe_for_a_config(folder: Path) -> None:
    _replace(folder / "adapter_config.json", os.mkfifo)


def _with_a_device_for_a_config(folder: Path) -> None:
    _replace(folder / "adapter_config.json", lambda file: file.symlink_to("/dev/zero"))


def _with_a_socket_for_a_config(folder: Path) -> None:
    def bind(file: Path) -> None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(file))

    _replace(folder / "adapter_config.json", bind)


def _with_a_folder_for_a_config(folder: Path) -> None:
    _replace(folder / "adapter_config.json", Path.mkdir)


def _with_a_pipe_for_weights(folder: Path) -> None:
    _replace(folder / "adapter_model.npz", os.mkfifo)


def _without_weights(folder: Path) -> None:
    (folder / "adapter_model.npz").unlink()


def _with_weights_nobody_reads(folder: Path) -> None:
    (folder / "adapter_model.npz").rename(folder / "adapter_model.xyz")


def _with_empty_weights(folder: Path) -> None:
    (folder / "adapter_model.npz").write_bytes(b"")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_without_config, r"there is no adapter_config\.json in it"),
        (_with_broken_config, "Expecting property name"),
        (_with_a_pipe_for_a_config, r"adapter_config.json cannot be read \(it is no regular file\)"),
        (_with_a_device_for_a_config, r"adapter_config.json cannot be read \(it is no regular file\)"),
        (_with_a_socket_for_a_config, r"adapter_config.json cannot be read \(No such device or address\)"),
        (_with_a_folder_for_a_config, r"adapter_config.json cannot be read \(it is no regular file\)"),
        (_with_a_pipe_for_weights, r"wanted adapter_model\* as one of \*.npz, found no files"),
        (_with_a_list, "adapter_config.json holds a JSON list, wanted an object"),
        (_without_weights, r"wanted adapter_model\* as one of \*.npz, found no files"),
        (_with_weights_nobody_reads, "found adapter_model.xyz"),
        (_with_empty_weights, "adapter_model.npz is empty; copy it again"),
    ],
)
def test_folders_that_hold_no_adapter_are_refused(tmp_path: Path, spoil: object, reason: str) -> None:
    folder = write(tmp_path)
    spoil(folder)  # type: ignore[operator]
    with pytest.raises(RequestError, match=reason) as error:
        find(folder)
    assert error.value.problem.startswith("the adapter 'a' cannot be loaded from ")
    assert error.value.param == "lora_path"


@pytest.mark.parametrize("path", ["", "/no/such/folder", "neither/here nor there"])
def test_a_folder_that_is_not_there_is_refused(path: str) -> None:
    with pytest.raises(RequestError, match="cannot be loaded from"):
        find_adapter("a", path, registry())
