"""``--tokenizer``: tokenizer files, or weights that hold a tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest

from dovetail.api import Checkpoint, CheckpointError, LoaderCard
from dovetail.api.checkpoint import HF_TOKENIZER
from dovetail.kernel import choose
from dovetail.kernel.checkpoints import find_checkpoint
from dovetail.kernel.options import PlanOptions
from dovetail.testing.resolution import make_registry

CARDS = [
    LoaderCard(name="bare", recognises=("*.bare",), inspect="loaders:bare", target="loaders:load", rank=60),
    LoaderCard(name="full", recognises=("*.full",), inspect="loaders:full", target="loaders:load"),
]


def bare(path: str, files: tuple[str, ...]) -> Checkpoint:
    return Checkpoint(path=path, files=files)


def full(path: str, files: tuple[str, ...]) -> Checkpoint:
    return Checkpoint(path=path, files=files, tokenizer="loaders:tokenizer", tokenizer_path=files[0])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    targets = {"loaders:bare": bare, "loaders:full": full}
    monkeypatch.setattr(choose, "import_part", lambda part, dotted: targets[dotted])
    for name in (
        "model/w.bare",
        "model/config.json",
        "files/tokenizer.json",
        "files/w.full",
        "weights/w.full",
        "odd/vocab.txt",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    return tmp_path


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (None, (HF_TOKENIZER, "model")),
        ("files", (HF_TOKENIZER, "files")),
        ("files/tokenizer.json", (HF_TOKENIZER, "files/tokenizer.json")),
        ("odd", (HF_TOKENIZER, "odd")),
        ("model", (HF_TOKENIZER, "model")),
        ("weights", ("loaders:tokenizer", "weights/w.full")),
        ("weights/w.full", ("loaders:tokenizer", "weights/w.full")),
    ],
)
def test_override(folder: Path, given: str | None, wanted: tuple[str, str]) -> None:
    options = PlanOptions(tokenizer=given and str(folder / given))
    _, checkpoint = find_checkpoint(str(folder / "model"), options, make_registry(*CARDS), [])
    assert (checkpoint.tokenizer, checkpoint.tokenizer_path) == (wanted[0], str(folder / wanted[1]))


def test_nothing_there(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="--tokenizer"):
        find_checkpoint(str(folder / "model"), PlanOptions(tokenizer="absent"), make_registry(*CARDS), [])
