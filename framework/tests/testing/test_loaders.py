"""check_loader: what passes, and what each wrong loader is told."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dovetail.api import LoaderCard
from dovetail.testing import check_loader

TENSORS = {
    "a.weight": torch.arange(12.0).view(3, 4),
    "b.weight": torch.arange(6, dtype=torch.float16).view(2, 3),
    "c.bias": torch.ones(5),
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "model.npz"
    np.savez(path, **{name: value.numpy() for name, value in TENSORS.items()})
    return path


def card(inspect: str = "inspect", target: str = "load", recognises: tuple[str, ...] = ("*.npz",)) -> LoaderCard:
    return LoaderCard(name="npz", recognises=recognises, inspect=f"kit_loader:{inspect}", target=f"kit_loader:{target}")


def test_a_right_loader_passes(checkpoint: Path) -> None:
    check_loader(card(), checkpoint, TENSORS)
    check_loader(card(), checkpoint.parent, TENSORS)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (card(recognises=("*.safe",)), "recognises *.safe, but nothing at"),
        (card("inspect_with_torch"), "inspect() imports torch"),
        (card("inspect_blindly"), "the loader npz gave the tensor b.weight of "),
        (card(target="load_twice"), "model.npz twice"),
        (card(target="load_some"), "model.npz, without b.weight, c.bias, and its inspect() counted 2"),
        (
            card(target="load_turned"),
            "the loader npz answered the tensor a.weight with Tensor of torch.float32 [4, 3], wanted torch.float32 [3, 4]",
        ),
    ],
)
def test_what_is_wrong_is_said(checkpoint: Path, wrong: LoaderCard, told: str) -> None:
    with pytest.raises(AssertionError, match="loader 'npz'") as failure:
        check_loader(wrong, checkpoint, TENSORS)
    assert told in str(failure.value)


def test_a_loader_that_lets_damage_through_is_told(tmp_path: Path) -> None:
    path = tmp_path / "model.npz"
    same = {name: value.float() for name, value in TENSORS.items()}
    np.savez(path, **{name: value.numpy() for name, value in same.items()})
    with pytest.raises(AssertionError, match=r"model\.npz cut to 0% raises EOFError, wanted a CheckpointError"):
        check_loader(card("inspect_blindly"), path, same)


def test_a_loader_that_knows_only_some_damage_is_told(checkpoint: Path) -> None:
    with pytest.raises(AssertionError, match=r"model\.npz with damaged bytes raises \w+, wanted a CheckpointError"):
        check_loader(card("inspect_narrowly"), checkpoint, TENSORS)


def test_what_the_checkpoint_lacks_or_holds_besides_is_said(checkpoint: Path) -> None:
    with pytest.raises(AssertionError, match=r"d\.weight is in the checkpoint, but is not yielded"):
        check_loader(card(), checkpoint, {**TENSORS, "d.weight": torch.ones(1)})
    with pytest.raises(AssertionError, match=r"yields c\.bias, which the checkpoint does not hold"):
        check_loader(card(), checkpoint, {k: v for k, v in TENSORS.items() if k != "c.bias"})
    with pytest.raises(AssertionError, match=r"c\.bias does not hold what was written"):
        check_loader(card(), checkpoint, {**TENSORS, "c.bias": torch.zeros(5)})
