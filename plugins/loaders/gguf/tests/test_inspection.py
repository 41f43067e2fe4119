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


def test_renamed_part(tmp_path: Path) -> None:
    assert "first of 3 parts" in refusal(split(tmp_path)[0].rename(tmp_path / "whole.gguf"))


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
