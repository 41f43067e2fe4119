"""Which expressions read a tensor on the host."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from kit_config import TINY
from torch import Tensor

from dovetail.api import ModelCard
from dovetail.nn import Context
from dovetail.testing import empty_model
from dovetail.testing.host_reads import HostReadError, host_reads_refused

CARD = ModelCard(name="small", architectures=("Small",), target="kit_models:Small", config="kit_config:SmallConfig")
X = torch.arange(6.0)
INDEX = torch.arange(6)

READS: dict[str, Callable[[Tensor, Tensor], object]] = {
    "item": lambda x, i: x[0].item(),
    "int": lambda x, i: int(i[0]),
    "float in text": lambda x, i: f"{x[0]:.1f}",
    "truth": lambda x, i: bool(x.any()),
    "comparison": lambda x, i: max(x),
    "containment": lambda x, i: 1.0 in x,
    "slice": lambda x, i: x[: i[2]],
    "index of a list": lambda x, i: [1, 2, 3][i[1]],
    "arange": lambda x, i: torch.arange(i[3]),
    "equality": lambda x, i: torch.equal(x, x),
    "closeness": lambda x, i: torch.allclose(x, x),
    "tolist": lambda x, i: i.tolist(),
    "numpy": lambda x, i: x.numpy(),
    "array": lambda x, i: np.asarray(x),
    "cpu": lambda x, i: x.cpu(),
    "to": lambda x, i: x.to("cpu"),
    "to, by name": lambda x, i: x.to(device="cpu"),
    "new tensor": lambda x, i: torch.tensor([x[0], x[1]]),
    "nonzero": lambda x, i: x.nonzero(),
    "where": lambda x, i: torch.where(x > 2),
    "unique": lambda x, i: i.unique(),
    "bincount": lambda x, i: torch.bincount(i),
    "mask": lambda x, i: x[x > 2],
    "mask of bytes": lambda x, i: x[(x > 2).byte()],
    "masked_select": lambda x, i: torch.masked_select(x, x > 2),
    "values by mask": lambda x, i: x.clone().index_put_((x > 2,), torch.ones(3)),
    "repeats": lambda x, i: torch.repeat_interleave(x, i),
    "parts": lambda x, i: torch.tensor_split(x, i[1:3]),
    "one_hot": lambda x, i: F.one_hot(i),
}
KEEPS: dict[str, Callable[[Tensor, Tensor], object]] = {
    "index": lambda x, i: x[i],
    "gather": lambda x, i: x.gather(0, i),
    "value by mask": lambda x, i: x.clone().__setitem__(x > 2, 0.0),
    "where": lambda x, i: torch.where(x > 2, x, 0.0),
    "fill": lambda x, i: x.masked_fill(x > 2, 0.0),
    "shape": lambda x, i: x[: x.shape[0] // 2].view(-1, 3),
    "constants": lambda x, i: x + torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
    "repeats of known size": lambda x, i: torch.repeat_interleave(x, i, output_size=15),
    "equal repeats": lambda x, i: torch.repeat_interleave(x, 2),
    "parts": lambda x, i: torch.tensor_split(x, 3),
    "device": lambda x, i: x.to(i.device),
    "one_hot": lambda x, i: F.one_hot(i, 6),
    "iteration": lambda x, i: [part + 1 for part in x],
}


@pytest.fixture(scope="module")
def ctx() -> Context:
    return empty_model(CARD, TINY)[1]


@pytest.mark.filterwarnings("ignore:indexing with dtype torch.uint8")
@pytest.mark.parametrize("case", READS)
def test_a_read_is_refused(ctx: Context, case: str) -> None:
    READS[case](X, INDEX)
    with pytest.raises(HostReadError, match=r"test_host_reads\.py"), torch.inference_mode(), host_reads_refused(ctx):
        READS[case](X, INDEX)


@pytest.mark.parametrize("case", KEEPS)
def test_what_stays_on_the_device_is_not(ctx: Context, case: str) -> None:
    with torch.inference_mode(), host_reads_refused(ctx):
        KEEPS[case](X, INDEX)


def test_kernels_may_read(ctx: Context) -> None:
    head = ctx.layers["head"]
    head.kernels = [lambda x: x * x.sum().item()]  # type: ignore[list-item]
    with torch.inference_mode(), host_reads_refused(ctx):
        head(X)
        with pytest.raises(HostReadError):
            X.sum().item()
