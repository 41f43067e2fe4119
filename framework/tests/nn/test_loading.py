"""Loading weights: how a checkpoint may store them, and what is told meanwhile."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dovetail.api import CheckpointError, LazyTensor
from dovetail.nn import (
    ColumnCut,
    Context,
    ExpertsKernel,
    ExpertWeights,
    Parallel,
    RowCut,
    StoredWeight,
    WeightName,
)
from dovetail.nn.dense import DenseFormat, DenseKernel, DequantizeKernel
from dovetail.nn.layers import Linear
from dovetail.nn.loading import WeightReader
from dovetail.nn.placing import WeightChoice
from dovetail.testing import lazy_tensors

from .loading_parts import (
    DENSE,
    KERNELS,
    SCALED,
    ScaledFormat,
    ScaledWeight,
    StackedFormat,
    context,
    load,
    matrix,
    refusal,
    scaled,
)


def test_progress_goes_by_the_weights_sizes() -> None:
    ctx = context()
    ctx.linear("small", 4, 2)
    ctx.linear("large", 8, 10)
    reader = WeightReader(ctx, DENSE, {})
    told: list[tuple[int, int]] = []
    tensors = lazy_tensors({"small.weight": torch.zeros(2, 4), "large.weight": torch.zeros(10, 8)})
    reader.load(tensors, lambda done, total: told.append((done, total)))
    assert told == [(0, 88), (8, 88), (88, 88)]


def test_components_may_have_dots_and_come_in_any_order() -> None:
    tensors, dense = scaled(5, 4)
    ctx = context()
    layer = ctx.linear("a", 4, 5)
    load(ctx, tensors, SCALED)
    assert torch.equal(matrix(layer), dense)


def test_two_formats_share_a_checkpoint_weight_by_weight() -> None:
    tensors, dense = scaled(6, 4, "a")
    plain = torch.randn(3, 4)
    ctx = context()
    first, second = ctx.linear("a", 4, 6), ctx.linear("b", 4, 3)
    reader = load(ctx, {**tensors, "b.weight": plain}, dataclasses.replace(SCALED, config=("b",)))
    assert torch.equal(matrix(first), dense)
    assert torch.equal(matrix(second), plain)
    assert reader.used == {"dequantize": 1, "dense": 1}


def test_parts_of_a_layer_may_be_stored_in_two_formats() -> None:
    tensors, dense = scaled(6, 4, "q")
    plain = torch.randn(3, 4)
    ctx = context()
    layer = ctx.linear({"q": 6, "k": 3}, 4)
    load(ctx, {**tensors, "k.weight": plain}, dataclasses.replace(SCALED, config=("k",)))
    assert torch.equal(matrix(layer), torch.cat([dense, plain]))
    assert len(layer.kernels) == 2


class OtherWeight(ScaledWeight):
    pass


class OtherFormat(ScaledFormat):
    suffixes = (".weight", ".other")

    def load(self, *args: Any) -> StoredWeight:
        found = super().load(*args)
        assert isinstance(found, ScaledWeight)
        return OtherWeight(found.shape, found.type, found.codes, found.scales)


class OnlyOther(DequantizeKernel):
    def __init__(self, weight: StoredWeight, *args: Any) -> None:
        assert type(weight) is OtherWeight
        super().__init__(weight, *args)


def test_weights_of_one_type_in_two_formats_keep_their_kernels() -> None:
    first, dense = scaled(4, 4, "q")
    second, other = scaled(6, 4, "k", ".other")
    choice = WeightChoice("linear", "int8", OtherFormat, [("only-other", OnlyOther)], ())
    ctx = context()
    layer = ctx.linear({"q": 4, "k": 6}, 4)
    reader = load(ctx, {**first, **second}, SCALED, choice)
    assert torch.equal(matrix(layer), torch.cat([dense, other]))
    assert reader.used == {"dequantize": 1, "only-other": 1}


def test_formats_are_asked_once_for_each_weight() -> None:
    ctx = context()
    tensors: dict[str, Tensor] = {}
    for i in range(20):
        ctx.linear(f"l.{i}", 4, 6)
        tensors |= scaled(6, 4, f"l.{i}")[0]
    asked = ScaledFormat.asked
    load(ctx, tensors, SCALED, WeightChoice("head", "int8", ScaledFormat, KERNELS, ()))
    assert ScaledFormat.asked - asked == 20


# Weights that are stored together.


def qkv(ctx: Context, **options: Any) -> Linear:
    layer = ctx.linear({"q": 6, "k": 2, "v": 2}, 4)
    ctx.stored_together("qkv", ("q", "k", "v"), **options)
    return layer


def test_weights_stored_as_one_are_read_as_one() -> None:
    ctx = context()
    layer = qkv(ctx)
    whole = torch.randn(10, 4)
    load(ctx, {"qkv.weight": whole})
    assert torch.equal(matrix(layer), whole)
    kernel = layer.kernels[0]
    assert isinstance(kernel, DenseKernel)
    assert kernel.weight.data_ptr() == whole.data_ptr()  # a mapped file stays mapped
    ctx = context()
    layer = qkv(ctx)
    load(ctx, {f"{part}.weight": rows for part, rows in zip("qkv", whole.split((6, 2, 2)), strict=True)})
    assert torch.equal(matrix(layer), whole)


def test_groups_that_cross_the_parts_of_a_layer_are_no_matter_if_nothing_cuts_them() -> None:
    tensors, dense = scaled(10, 4, "qkv")
    ctx = context()
    layer = ctx.linear({"q": 5, "k": 3, "v": 2}, 4)
    ctx.stored_together("qkv", ("q", "k", "v"))
    load(ctx, tensors, SCALED)
    assert torch.equal(matrix(layer), dense)
    ctx = context()
    ctx.linear("q", 4, 5)
    ctx.linear({"k": 3, "v": 2}, 4)
    ctx.stored_together("qkv", ("q", "k", "v"))
    with pytest.raises(
        CheckpointError, match=r"^q: a weight of type int8 cannot be cut at rows 0 and 5 of 10: 2 of them"
    ):
        load(ctx, tensors, SCALED)


def test_parts_of_one_tensor_may_be_those_of_several_layers() -> None:
    ctx = context()
    first, second = ctx.linear("gate", 4, 6), ctx.linear("up", 4, 6)
    ctx.stored_together("both", ("gate", "up"))
    tensors, dense = scaled(12, 4, "both")
    load(ctx, tensors, SCALED)
    assert torch.equal(matrix(first), dense[:6])
    assert torch.equal(matrix(second), dense[6:])
    kernel = first.kernels[0]
    assert isinstance(kernel, DequantizeKernel)
    assert isinstance(kernel.weight, ScaledWeight)
    assert kernel.weight.codes.untyped_storage().nbytes() == 24  # the part alone


def test_rows_of_the_parts_may_alternate() -> None:
    ctx = context()
    layer = ctx.linear({"gate": 6, "up": 6}, 4)
    ctx.stored_together("both", ("gate", "up"), alternating=True)
    whole = torch.randn(12, 4)
    load(ctx, {"both.weight": whole})
    assert torch.equal(matrix(layer), torch.cat([whole[::2], whole[1::2]]))


def test_a_weight_that_is_stored_twice_is_refused() -> None:
    ctx = context()
    qkv(ctx)
    assert "(unexpected: k.weight)" in refusal(ctx, {"qkv.weight": torch.ones(10, 4), "k.weight": torch.ones(2, 4)})


def test_one_of_two_forms_is_too_many() -> None:
    def model() -> tuple[Context, Linear]:
        ctx = context()
        layer = qkv(ctx)
        ctx.stored_together("kv", ("k", "v"))
        return ctx, layer

    q, kv = torch.randn(6, 4), torch.randn(4, 4)
    ctx, layer = model()
    load(ctx, {"q.weight": q, "kv.weight": kv})
    assert torch.equal(matrix(layer), torch.cat([q, kv]))
    ctx, _ = model()
    text = refusal(ctx, {"qkv.weight": torch.cat([q, kv]), "kv.weight": kv})
    assert "unexpected: qkv.weight" in text


@pytest.mark.parametrize(("required", "names"), [(True, "qkv.weight"), (False, "q.weight, k.weight, v.weight")])
def test_what_is_missing_has_the_name_that_checkpoints_have(required: bool, names: str) -> None:
    ctx = context()
    qkv(ctx, required=required)
    assert f"(missing: {names})" in refusal(ctx, {})
    assert list(WeightReader(ctx, DENSE, {}).expected()) == names.split(", ")


def test_a_wrong_shape_of_several_weights_is_that_of_their_tensor() -> None:
    ctx = context()
    qkv(ctx)
    assert "qkv.weight is [9, 4], wanted [10, 4]" in refusal(ctx, {"qkv.weight": torch.ones(9, 4)})


# Transposed weights and other orders of rows.


def test_full_precision_matrices_may_be_transposed() -> None:
    ctx = context()
    layer = ctx.linear("a", 4, 6, transposed=True)
    stored = torch.randn(4, 6)
    load(ctx, {"a.weight": stored})
    assert torch.equal(matrix(layer), stored.T)
    assert WeightReader(ctx, DENSE, {}).expected() == {"a.weight": (4, 6)}
    ctx = context()
    ctx.linear("a", 4, 6, transposed=True)
    assert "a.weight is [4, 6], wanted [6, 4]" in refusal(ctx, {"a.weight": torch.ones(6, 4)})


def test_a_matrix_of_one_row_may_be_stored_as_a_vector() -> None:
    ctx = context()
    layer = ctx.linear("a", 4, 1)
    load(ctx, {"a.weight": torch.arange(4.0)})
    assert torch.equal(matrix(layer), torch.arange(4.0)[None])
    ctx = context()
    ctx.linear("a", 4, 1)
    assert "a.weight is [1, 5], wanted [1, 4]" in refusal(ctx, {"a.weight": torch.ones(5)})


def test_quantized_matrices_are_not_transposed_nor_are_their_scales() -> None:
    class Wide(ScaledFormat):
        """Scales that look like a full-precision matrix."""

        def load(self, weight: WeightName, tensors: Mapping[str, LazyTensor], *args: Any) -> StoredWeight:
            scales = tensors[self.suffixes[1]]
            assert scales.shape == scales.read().shape == (3, 1)
            return super().load(weight, tensors, *args)

    tensors, dense = scaled(6, 4)
    tensors["a.weight.quant_state.scales"] = tensors["a.weight.quant_state.scales"][:, None]
    ctx = context()
    layer = ctx.linear("a", 4, 6, transposed=True)
    load(ctx, tensors, WeightChoice("linear", "int8", Wide, KERNELS, ()))
    assert torch.equal(matrix(layer), dense)


ORDER = torch.tensor([4, 5, 0, 1, 2, 3])


def test_rows_of_a_checkpoint_may_be_in_another_order() -> None:
    ctx = context()
    layer = ctx.linear("a", 4, 6, row_order=ORDER, bias=True)
    whole, bias = torch.randn(6, 4), torch.randn(6)
    load(ctx, {"a.weight": whole, "a.bias": bias})
    assert torch.equal(matrix(layer), whole[ORDER])
    assert torch.equal(layer.bias, bias[ORDER])  # type: ignore[arg-type]
    tensors, dense = scaled(6, 4)
    ctx = context()
    layer = ctx.linear("a", 4, 6, row_order=ORDER)
    load(ctx, tensors, SCALED)  # groups of two rows stay together
    assert torch.equal(matrix(layer), dense[ORDER])


def test_an_order_that_divides_groups_is_refused_by_name() -> None:
    tensors, _ = scaled(6, 4)
    ctx = context()
    ctx.linear("a", 4, 6, row_order=ORDER.flip(0))
    with pytest.raises(CheckpointError, match=r"^a: rows of a weight of type int8 cannot be stored in another order"):
        load(ctx, tensors, SCALED)


# Cuts.


def test_cuts_are_those_of_the_matrix_and_copied() -> None:
    tensors, dense = scaled(8, 6)
    ctx = context(parallel=Parallel(1, 2))
    rows = ctx.linear("a", 6, 8, cut=RowCut({"a": ((2, 4), (6, 8))}))
    load(ctx, tensors, SCALED)
    assert torch.equal(matrix(rows), torch.cat([dense[2:4], dense[6:8]]))
    ctx = context(parallel=Parallel(1, 2))
    columns = ctx.linear("a", 6, 8, cut=ColumnCut(((3, 6),)))
    load(ctx, tensors, SCALED)
    assert torch.equal(matrix(columns), dense[:, 3:])
    kernel = columns.kernels[0]
    assert isinstance(kernel, DequantizeKernel)
    assert isinstance(kernel.weight, ScaledWeight)
    assert kernel.weight.codes.untyped_storage().nbytes() == 24


def test_a_cut_within_a_group_is_refused_by_name() -> None:
    tensors, _ = scaled(8, 6)
    ctx = context(parallel=Parallel(0, 2))
    ctx.linear("a", 6, 8, cut=RowCut({"a": ((0, 3),)}))
    with pytest.raises(CheckpointError, match=r"^a: a weight of type int8 cannot be cut at rows 0 and 3 of 8"):
        load(ctx, tensors, SCALED)


# Stacks of experts.


class Keep(ExpertsKernel):
    """Keeps the weights that it was made of."""

    def __init__(self, weights: ExpertWeights, *_: Any) -> None:
        self.weights = weights

    def __call__(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        raise NotImplementedError

    @property
    def nbytes(self) -> int:
        return 0


KEEP: list[tuple[str, Any]] = [("keep", Keep)]
EXPERTS = [
    WeightChoice("experts", "float32", DenseFormat, KEEP),
    WeightChoice("experts", "int8", StackedFormat, KEEP, ()),
]


def experts(count: int = 3, **options: Any) -> tuple[Context, Callable[[], ExpertWeights]]:
    """A layer of experts ``[6, 4]`` whose checkpoints may stack them, and what its kernel got."""
    ctx = context(**options)
    names = [(f"e.{i}.gate", f"e.{i}.up", f"e.{i}.down") for i in range(count)]
    layer = ctx.experts(names, 4, 6, 2)
    ctx.stored_together("e.gate_up", [(gate, up) for gate, up, _ in names])
    ctx.stored_together("e.down", [(down,) for _, _, down in names])

    def kept() -> ExpertWeights:
        assert isinstance(layer.kernel, Keep)
        return layer.kernel.weights

    return ctx, kept


def counted(tensors: Mapping[str, Tensor], reads: list[str]) -> Iterator[LazyTensor]:
    for lazy in lazy_tensors(tensors):

        def read(lazy: LazyTensor = lazy) -> Tensor:
            reads.append(lazy.name)
            return lazy.read()

        yield dataclasses.replace(lazy, read=read)


@pytest.mark.parametrize("suffix", ["", ".weight"])
def test_a_stack_is_read_once_with_or_without_a_suffix(suffix: str) -> None:
    ctx, kept = experts()
    gate_up, down = torch.randn(3, 12, 4), torch.randn(3, 4, 6)
    reads: list[str] = []
    stored = {f"e.gate_up{suffix}": gate_up, f"e.down{suffix}": down}
    load(ctx, list(counted(stored, reads)), *EXPERTS)
    assert sorted(reads) == sorted(stored)
    for i in range(3):
        assert torch.equal(kept().gate[i].dense(torch.float32), gate_up[i, :6])
        assert torch.equal(kept().up[i].dense(torch.float32), gate_up[i, 6:])
        assert torch.equal(kept().down[i].dense(torch.float32), down[i])


def test_a_rank_keeps_its_own_experts_alone() -> None:
    ctx, kept = experts(4, parallel=Parallel(1, 2))
    gate_up, down = torch.randn(4, 12, 4), torch.randn(4, 4, 6)
    load(ctx, {"e.gate_up": gate_up, "e.down": down}, *EXPERTS)
    assert (kept().first, len(kept().down)) == (2, 2)
    for i, weight in enumerate(kept().down):
        assert torch.equal(weight.dense(torch.float32), down[2 + i])
        assert all(f.data.untyped_storage().nbytes() == f.data.nbytes for f in weight.all_fields().values())


def test_experts_may_be_stored_one_by_one() -> None:
    ctx, kept = experts(2)
    tensors = {f"e.{i}.{part}.weight": torch.randn(6, 4) for i in range(2) for part in ("gate", "up")}
    tensors |= {f"e.{i}.down.weight": torch.randn(4, 6) for i in range(2)}
    load(ctx, tensors, *EXPERTS)
    assert torch.equal(kept().up[1].dense(torch.float32), tensors["e.1.up.weight"])


@pytest.mark.parametrize("flat", [True, False])
def test_a_stack_may_be_quantized(flat: bool) -> None:
    """Packed bytes may come as rows of all experts."""
    ctx, kept = experts()
    codes, scales = torch.randint(-9, 9, (3, 12, 4), dtype=torch.int8), torch.rand(3, 6)
    down, down_scales = torch.randint(-9, 9, (3, 4, 6), dtype=torch.int8), torch.rand(3, 2)
    stored = {"e.gate_up_codes": codes, "e.gate_up_scales": scales, "e.down_codes": down, "e.down_scales": down_scales}
    lazies = lazy_tensors(stored)
    if flat:
        lazies = [
            dataclasses.replace(lazy, read=lambda lazy=lazy: lazy.read().flatten(0, 1))
            if "codes" in lazy.name
            else lazy
            for lazy in lazies
        ]  # type: ignore[misc]
    load(ctx, lazies, *EXPERTS)
    for i in range(3):
        dense = codes[i] * scales[i].repeat_interleave(2)[:, None]
        assert torch.equal(kept().gate[i].dense(torch.float32), dense[:6])
        assert torch.equal(kept().up[i].dense(torch.float32), dense[6:])
        wanted = down[i] * down_scales[i].repeat_interleave(2)[:, None]
        assert torch.equal(kept().down[i].dense(torch.float32), wanted)


def test_components_of_another_number_of_experts_are_named() -> None:
    ctx, _ = experts()
    stored = {"e.gate_up_codes": torch.ones(3, 12, 4).char(), "e.gate_up_scales": torch.ones(2, 6)}
    stored["e.down"] = torch.ones(3, 6, 4)
    text = refusal(ctx, stored, *EXPERTS)
    assert "e.gate_up_scales is [2, 6], wanted one of each of 3 experts" in text
    assert "e.down is [3, 6, 4], wanted [3, 4, 6]" in text


def test_a_stack_that_lacks_a_component_names_it() -> None:
    ctx, _ = experts()
    text = refusal(ctx, {"e.gate_up_codes": torch.ones(3, 12, 4).char(), "e.down": torch.ones(3, 4, 6)}, *EXPERTS)
    assert "(missing: e.gate_up_scales)" in text


# Names.


class Tower(nn.Module):
    """What a model says of names: a prefix, an old name, and a tower that it leaves out."""

    def rename(self, name: str) -> str | None:
        if name.startswith("visual."):
            return None
        return name.removeprefix("language_model.").replace("gamma", "weight")


def test_the_model_translates_names() -> None:
    ctx = context()
    layer = ctx.linear("a", 4, 6)
    ctx.norm("n", 4, 1e-6)
    whole = torch.randn(6, 4)
    tensors = {
        "language_model.a.weight": whole,
        "module.language_model.n.gamma": torch.ones(4),
        "visual.a.weight": torch.ones(9, 9),
        "module.visual.b.weight": torch.ones(9, 9),
    }
    load(ctx, tensors, rename=Tower().rename)
    assert torch.equal(matrix(layer), whole)


def test_names_in_errors_are_those_of_the_checkpoint() -> None:
    ctx = context()
    ctx.linear("a", 4, 6)
    tensors = {
        "language_model.a.weight": torch.ones(5, 4),
        "language_model.b.weight": torch.ones(1),
        "a.weight": torch.ones(6, 4),
    }
    text = refusal(ctx, tensors, rename=Tower().rename)
    assert "unexpected: language_model.b.weight, a.weight" in text
    assert "language_model.a.weight is [5, 4], wanted [6, 4]" in text


def test_a_container_s_own_naming_comes_instead_of_the_model_s() -> None:
    class Naming:
        def rename(self, name: str) -> str | None:
            return name.replace("blk", "a")

        def row_order(self, name: str, config: Mapping[str, Any]) -> Any:
            return ORDER.numpy() if name == "a.weight" else None

    ctx = context()
    layer = ctx.linear("a", 4, 6, transposed=True)
    whole = torch.randn(6, 4)
    load(ctx, {"blk.weight": whole}, naming=Naming(), rename=lambda name: None)
    assert torch.equal(matrix(layer), whole[ORDER])


def test_a_tied_head_needs_no_weight_and_takes_one() -> None:
    table, own = torch.randn(8, 4), torch.randn(8, 4)
    for given in (None, own):
        ctx = context()
        embedding = ctx.embedding("emb", 8, 4)
        head = ctx.head("head", 4, 8, tied=embedding)
        load(ctx, {"emb.weight": table} | ({} if given is None else {"head.weight": given}))
        assert torch.equal(matrix(head), table if given is None else given)
        assert embedding.weight is None
