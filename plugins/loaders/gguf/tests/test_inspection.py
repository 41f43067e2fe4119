"""Which files make up a model, and what is said of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from dovetail_loaders_gguf.inspection import inspect
from dovetail_loaders_gguf.loading import load

from dovetail.api import CheckpointError

from .files import byte_level, model, write


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        inspect(str(path), ())
    assert caught.value.hint
    return str(caught.value)


def split(folder: Path, count: int = 3, stem: str = "big") -> list[Path]:
    return [
        write(
            folder / f"{stem}-{i + 1:05}-of-{count:05}.gguf",
            {f"blk.{i}.w": np.full((2, 2), i, dtype=np.float32)},
            split__no=i,
            split__count=count,
            **{"split.tensors.count": count},
        )
        for i in range(count)
    ]


def test_whole_file(tmp_path: Path) -> None:
    file = model(tmp_path / "m.gguf", a__names=["x"], a__long=list(range(2000)), tokenizer__chat_template="{{ x }}")
    found = inspect(str(file), (str(file),))
    assert found.files == (str(file),)
    assert (found.naming, found.architecture) == ("gguf", "llama")
    assert found.tensor_types == {"float16": 1, "float32": 1, "q4_1": 1}
    assert found.metadata["llama.context_length"] == 128
    assert found.metadata["a.names"] == ["x"]
    assert found.metadata["llama.vocab_size"] == 6
    assert found.metadata["tied_embeddings"] is True
    assert not {"a.long", "tokenizer.chat_template"} & set(found.metadata)
    assert found.tokenizer_path == str(file)
    assert type(found).model_validate_json(found.model_dump_json()) == found


def test_output_layer_of_its_own(tmp_path: Path) -> None:
    file = write(tmp_path / "m.gguf", {"output.weight": np.zeros((2, 2), dtype=np.float32)})
    assert inspect(str(file), ()).metadata["tied_embeddings"] is False


def test_end_ids(tmp_path: Path) -> None:
    tokens = ["a", "</s>", "<|im_end|>", "b", "<|eot_id|>", "<|end|>"]
    keys = {"tokenizer__ggml__tokens": tokens, "tokenizer__ggml__bos_token_id": 0}
    file = write(tmp_path / "m.gguf", **keys, tokenizer__ggml__eos_token_id=1, tokenizer__ggml__eot_token_id=4)
    assert inspect(str(file), ()).generation_config == {"eos_token_id": [1, 4, 2, 5], "bos_token_id": 0}
    harmony = ["<|end|>", "<|return|>", "<|call|>"]
    file = write(tmp_path / "h.gguf", tokenizer__ggml__tokens=harmony, tokenizer__ggml__eos_token_id=1)
    assert inspect(str(file), ()).generation_config == {"eos_token_id": [1, 2]}


def test_split_files(tmp_path: Path) -> None:
    files = split(tmp_path)
    for path in (tmp_path, *files):
        found = inspect(str(path), tuple(map(str, files)) if path.is_dir() else (str(path),))
        assert found.files == tuple(map(str, files))
        assert found.tensor_types == {"float32": 3}
    assert [float(t.read()[0, 0]) for t in load(found, {}, torch.device("cpu"))] == [0.0, 1.0, 2.0]


def test_missing_parts_are_named(tmp_path: Path) -> None:
    files = split(tmp_path)
    files[0].unlink()
    files[2].unlink()
    said = refusal(files[1])
    assert files[0].name in said
    assert files[2].name in said


def test_parts_of_different_models(tmp_path: Path) -> None:
    files = split(tmp_path, count=2)
    split(tmp_path, count=3, stem="other")[1].rename(files[1])
    assert "is part 2 of 3 by its metadata, wanted part 2 of 2" in refusal(files[0])


def test_tensor_in_two_parts(tmp_path: Path) -> None:
    files = split(tmp_path, count=2)
    write(files[1], {"blk.0.w": np.zeros((2, 2), dtype=np.float32)})
    assert "stands twice" in refusal(files[0])


@pytest.mark.parametrize(
    "names", [("b.gguf", "c.gguf", "a.gguf"), ("x-1", "x-2", "x-3"), ("X.GGUF", "Y.GGUF", "Z.GGUF")]
)
def test_parts_of_any_name_are_found_by_their_numbers(tmp_path: Path, names: tuple[str, ...]) -> None:
    files = [file.rename(tmp_path / name) for file, name in zip(split(tmp_path), names, strict=True)]
    model(tmp_path / "other.bin")
    for path in files:
        assert inspect(str(path), (str(path),)).files == tuple(map(str, files))
    assert inspect(str(tmp_path), tuple(map(str, files))).files == tuple(map(str, files))


def test_parts_in_capitals(tmp_path: Path) -> None:
    files = [file.rename(file.with_suffix(".GGUF")) for file in split(tmp_path)]
    assert inspect(str(tmp_path), tuple(map(str, files))).files == tuple(map(str, files))


def test_renamed_part_without_the_others(tmp_path: Path) -> None:
    files = split(tmp_path)
    files[1].unlink()
    assert "first of 3 parts" in refusal(files[0].rename(tmp_path / "whole.gguf"))


def test_renamed_parts_of_two_models_are_not_mixed(tmp_path: Path) -> None:
    first = [file.rename(tmp_path / f"a{i}") for i, file in enumerate(split(tmp_path))]
    for i, file in enumerate(split(tmp_path)):
        file.rename(tmp_path / f"b{i}")
    assert "first of 3 parts" in refusal(first[0])


@pytest.mark.parametrize("name", ["m.gguf.part1of2", "m.gguf-split-a", "m.gguf.part01"])
def test_pieces_of_a_file_that_was_cut_up_are_told(tmp_path: Path, name: str) -> None:
    whole = model(tmp_path / "m.gguf").read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) - 200])
    with pytest.raises(CheckpointError, match="put the pieces of the file together"):
        inspect(str(tmp_path / name), ())


def test_folder_with_several_models(tmp_path: Path) -> None:
    model(tmp_path / "a-Q4.gguf")
    model(tmp_path / "a-Q8.gguf")
    said = refusal(tmp_path)
    assert "a-Q4.gguf, a-Q8.gguf" in said
    assert "name one" in said


def test_vision_encoder_is_no_second_model(tmp_path: Path) -> None:
    model(tmp_path / "mmproj-a.gguf")
    file = model(tmp_path / "a.gguf")
    assert inspect(str(tmp_path), ()).files == (str(file),)


@pytest.mark.parametrize(
    ("architecture", "kind"),
    [("clip", None), ("clip", "mmproj"), ("llama", "adapter"), ("controlvector", None), ("llama", "imatrix")],
)
def test_files_beside_a_model_are_known_by_what_they_say(tmp_path: Path, architecture: str, kind: str | None) -> None:
    file = model(tmp_path / "b.gguf")
    keys = {"general__type": kind} if kind else {}
    write(tmp_path / "a.gguf", {"t": np.zeros((2, 2), dtype=np.float32)}, architecture=architecture, **keys)
    assert inspect(str(tmp_path), ()).files == (str(file),)


def test_any_name(tmp_path: Path) -> None:
    file = model(tmp_path / "m.gguf").rename(tmp_path / "sha256-0123abc")
    assert inspect(str(file), (str(file),)).tensor_types == {"float16": 1, "float32": 1, "q4_1": 1}
    assert inspect(str(tmp_path), (str(file),)).files == (str(file),)


def test_no_architecture(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(b"GGUF\x03\0\0\0" + bytes(16))
    assert "general.architecture" in refusal(file)


def test_inspection_needs_no_torch(tmp_path: Path) -> None:
    file = byte_level(tmp_path / "m.gguf", "gpt-2")
    code = (
        "import sys; from dovetail_loaders_gguf.inspection import inspect; inspect(sys.argv[1], ()); "
        "from dovetail_loaders_gguf.tokenizer import from_gguf; from_gguf(sys.argv[1]); "
        "sys.exit(', '.join({'torch', 'numpy', 'transformers'} & set(sys.modules)) or None)"
    )
    subprocess.run([sys.executable, "-c", code, str(file)], check=True, timeout=60)
