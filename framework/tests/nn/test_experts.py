"""Kernels of experts, and experts in every form that checkpoints have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from dovetail.api import CheckpointError, LayerKind, LazyTensor, RequestError, ResolutionError
from dovetail.nn import Context, Experts, ExpertsKernel, ExpertWeights, Ops, StoredWeight
from dovetail.nn.affine import AffineKernel
from dovetail.nn.dense import DenseFormat, DenseKernel, DenseWeight
from dovetail.nn.experts import EveryExpert, GroupedExperts
from dovetail.nn.loading import WeightReader
from dovetail.nn.lora_loading import LoraTargets, read_adapter
from dovetail.nn.parallel import Parallel
from dovetail.nn.placing import WeightChoice
from dovetail.nn.weights import WeightKernel
from dovetail.testing import ReferenceAttention, lazy_tensors, sample_experts, store_together
from dovetail.testing.experts import compute_experts, every_case, make_experts
from dovetail.testing.quantization import AffineSample

CPU = torch.device("cpu")
KERNELS = [EveryExpert, GroupedExperts]
kernels = pytest.mark.parametrize("kernel", KERNELS)
CHANNELS, INNER, E, TOP = 24, 16, 6, 2


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def dense(rows: int, columns: int, seed: int) -> DenseWeight:
    return DenseWeight.of(random(rows, columns, seed=seed) * columns**-0.5, "float32")


def affine(rows: int, columns: int, seed: int) -> AffineSample:
    return AffineSample.random(rows, columns, bits=4, group=8, mins=True, signed=False)


def mixed(rows: int, columns: int, seed: int) -> StoredWeight:
    return (affine if seed % 3 else dense)(rows, columns, seed)


def rows_alone(x: Tensor, weight: Tensor) -> Tensor:
    """A product that gives a row the same bits in every batch, as CPU and CUDA platforms promise theirs to."""
    return torch.stack([weight @ row for row in x]) if len(x) else x.new_empty(0, len(weight))


def make(kernel: type[ExpertsKernel], experts: ExpertWeights, dtype: torch.dtype = torch.float32) -> ExpertsKernel:
    ops = Ops({"linear": rows_alone})

    def make_kernel(weight: StoredWeight, kind: LayerKind) -> WeightKernel:
        assert kind == "linear"
        found = (DenseKernel if isinstance(weight, DenseWeight) else AffineKernel)(weight, kind, CPU, dtype)
        found.ops = ops
        found.process_after_loading()
        return found

    return kernel(experts, make_kernel, CPU, dtype)


def draw(tokens: int, experts: ExpertWeights, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    ids = random(tokens, experts.total, seed=3).argsort(-1)[:, : experts.top_k]
    x = random(tokens, experts.down[0].shape[0], seed=4).to(dtype)
    return x, ids, random(tokens, experts.top_k, seed=5).abs() + 0.1


def assert_near(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    limit = 1e-5 if dtype == torch.float32 else 0.03
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, rtol=limit, atol=limit * float(expected.abs().max() + 1e-9))


@kernels
@pytest.mark.parametrize("matrix", [dense, affine, mixed])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tokens", [0, 1, 29])
def test_experts_are_summed_token_by_token(
    kernel: type[ExpertsKernel], matrix: Callable[[int, int, int], StoredWeight], dtype: torch.dtype, tokens: int
) -> None:
    whole = make_experts(matrix, channels=CHANNELS, inner=INNER, experts=E, top_k=TOP)
    for experts in every_case(whole, dtype).values():
        x, ids, weights = draw(tokens, experts, dtype)
        found = make(kernel, experts, dtype)(x, ids, weights)
        assert found.shape == (tokens, CHANNELS)
        if tokens:
            assert_near(found, compute_experts(x, ids, weights, experts), dtype)


@kernels
@pytest.mark.parametrize("activation", ["silu", "gelu_tanh", "relu2"])
def test_activations_are_of_gate(kernel: type[ExpertsKernel], activation: str) -> None:
    experts = make_experts(dense, channels=CHANNELS, inner=INNER, experts=E, top_k=TOP)
    experts = replace(experts, activation=Ops().activation(activation, gated=True))
    x, ids, weights = draw(7, experts)
    expected = torch.zeros(7, CHANNELS)
    function = Ops().activation(activation)
    for token in range(7):
        for number, share in zip(ids[token].tolist(), weights[token].tolist(), strict=True):
            gate, up, down = (part[number].dense(torch.float32) for part in (experts.gate, experts.up, experts.down))
            expected[token] += share * (down @ (function(gate @ x[token]) * (up @ x[token])))
    torch.testing.assert_close(make(kernel, experts)(x, ids, weights), expected, rtol=1e-5, atol=1e-5)


@kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", ["as they are", "with biases", "some of them, on one rank"])
def test_a_token_has_the_same_bits_whatever_else_is_there(
    kernel: type[ExpertsKernel], dtype: torch.dtype, case: str
) -> None:
    experts = every_case(make_experts(dense, channels=CHANNELS, inner=INNER, experts=9, top_k=4), dtype)[case]
    x, ids, weights = draw(40, experts, dtype)
    made = make(kernel, experts, dtype)
    whole = made(x, ids, weights)
    assert torch.equal(made(x, ids, weights), whole)
    for rows in (slice(0, 1), slice(39, 40), slice(7, 9), slice(3, 31)):
        assert torch.equal(made(x[rows], ids[rows], weights[rows]), whole[rows])
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    assert torch.equal(made(x[order], ids[order], weights[order]), whole[order])
    # In whatever order the router names them, they are added in the same one.
    assert torch.equal(made(x, ids.flip(-1), weights.flip(-1)), whole)


def test_both_kernels_add_in_the_same_order() -> None:
    experts = make_experts(dense, channels=CHANNELS, inner=INNER, experts=9, top_k=4)
    arguments = draw(40, experts)
    assert torch.equal(make(EveryExpert, experts)(*arguments), make(GroupedExperts, experts)(*arguments))


@kernels
def test_results_of_ranks_add_up(kernel: type[ExpertsKernel]) -> None:
    experts = every_case(make_experts(dense, channels=CHANNELS, inner=INNER, experts=E, top_k=TOP), torch.float32)[
        "with biases"
    ]
    x, ids, weights = draw(17, experts)
    whole = make(kernel, experts)(x, ids, weights)
    total = torch.zeros_like(whole)
    assert experts.gate_up_bias is not None
    assert experts.down_bias is not None
    for start, stop in ((0, 1), (1, 4), (4, 6)):
        own = slice(start, stop)
        part = replace(
            experts,
            gate=experts.gate[own],
            up=experts.up[own],
            down=experts.down[own],
            first=start,
            gate_up_bias=experts.gate_up_bias[own],
            down_bias=experts.down_bias[own],
        )
        total += make(kernel, part)(x, ids, weights)
    torch.testing.assert_close(total, whole, rtol=1e-5, atol=1e-5)


@kernels
def test_what_is_no_number_reaches_only_the_tokens_that_it_belongs_to(kernel: type[ExpertsKernel]) -> None:
    experts = make_experts(dense, channels=CHANNELS, inner=INNER, experts=E, top_k=TOP)
    experts.down[3].data.fill_(float("inf"))  # type: ignore[attr-defined]
    x, ids, weights = draw(30, experts)
    chose = (ids == 3).any(-1)
    assert chose.any()
    weights[(~chose).nonzero()[0]] = float("nan")
    found = make(kernel, experts)(x, ids, weights).isfinite().all(-1)
    expected = ~chose
    expected[(~chose).nonzero()[0]] = False
    assert torch.equal(found, expected)


@kernels
def test_a_weight_below_0_counts(kernel: type[ExpertsKernel]) -> None:
    experts = make_experts(dense, channels=CHANNELS, inner=INNER, experts=E, top_k=TOP)
    x, ids, weights = draw(5, experts)
    made = make(kernel, experts)
    assert torch.equal(made(x, ids, -weights), -made(x, ids, weights))


def run_without_values(function: Callable[..., Any], *arguments: Tensor) -> Any:
    """Run with tensors that have shapes and no values, so that whatever reads one on the host fails."""
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        return function(*map(mode.from_tensor, arguments))


@pytest.mark.parametrize("packing", ["dense", "affine"])
def test_the_reference_reads_nothing_on_the_host(packing: str) -> None:
    for sample in sample_experts(packing):
        for experts in every_case(sample, torch.float32).values():
            found = run_without_values(make(EveryExpert, experts), *draw(5, experts))
            assert found.shape == (5, experts.down[0].shape[0])
    with pytest.raises(DataDependentOutputException):
        run_without_values(make(GroupedExperts, sample), *draw(5, sample))


# Loading.

EXPERTS = [f"layer.experts.{e}" for e in range(E)]
NAMES = [(f"{name}.w1", f"{name}.w3", f"{name}.w2") for name in EXPERTS]
FORMS: dict[str, Callable[[Context], None]] = {
    "gate_up and down": lambda ctx: (
        ctx.stored_together("layer.gate_up_proj", [[g, u] for g, u, _ in NAMES]),
        ctx.stored_together("layer.down_proj", [[d] for _, _, d in NAMES]),
    ),
    "three stacks": lambda ctx: tuple(
        ctx.stored_together(f"layer.{part}_exps", [[expert[i]] for expert in NAMES])
        for i, part in enumerate(("gate", "up", "down"))
    ),
    "transposed": lambda ctx: (
        ctx.stored_together("layer.gate_up_proj", [[g, u] for g, u, _ in NAMES], transposed=True),
        ctx.stored_together("layer.down_proj", [[d] for _, _, d in NAMES], transposed=True),
    ),
    "alternating": lambda ctx: (
        ctx.stored_together("layer.gate_up_proj", [[g, u] for g, u, _ in NAMES], alternating=True, transposed=True),
        ctx.stored_together("layer.down_proj", [[d] for _, _, d in NAMES], transposed=True),
    ),
}


def context(parallel: Parallel | None = None, **keys: Any) -> Context:
    attention = ReferenceAttention(device=CPU, dtype=torch.float32, kv_dtype=torch.float32, block_size=8)
    return Context(
        device=CPU,
        dtype=torch.float32,
        ops=Ops(),
        attention=attention,
        max_tokens=8,
        parallel=parallel,
        **keys,
    )


def choices(kernel: type[ExpertsKernel] = GroupedExperts) -> list[WeightChoice]:
    return [
        WeightChoice("experts", "float32", DenseFormat, [("experts", kernel)]),
        WeightChoice("linear", "float32", DenseFormat, [("dense", DenseKernel)]),
    ]


def checkpoint(bias: bool = False) -> dict[str, Tensor]:
    tensors = {}
    for seed, name in enumerate(name for expert in NAMES for name in expert):
        rows, columns = (CHANNELS, INNER) if name.endswith("w2") else (INNER, CHANNELS)
        tensors[f"{name}.weight"] = random(rows, columns, seed=100 * seed) * columns**-0.5
        if bias:
            tensors[f"{name}.bias"] = random(rows, seed=100 * seed)
    return tensors


def load(
    tensors: Mapping[str, Tensor] | Sequence[LazyTensor],
    form: str | None = None,
    parallel: Parallel | None = None,
    **keys: Any,
) -> Experts:
    ctx = context(parallel)
    layer = ctx.experts(NAMES, CHANNELS, INNER, TOP, **keys)
    if form is not None:
        FORMS[form](ctx)
    WeightReader(ctx, choices(), {}).load(lazy_tensors(tensors) if isinstance(tensors, Mapping) else tensors)
    return layer


def result(layer: Experts) -> Tensor:
    ids = random(9, E, seed=3).argsort(-1)[:, :TOP]
    return layer(random(9, CHANNELS, seed=4), ids, torch.full((9, TOP), 0.5))


def together(form: str, tensors: Mapping[str, Tensor], bias: bool) -> dict[str, Tensor]:
    ctx = context()
    ctx.experts(NAMES, CHANNELS, INNER, TOP, bias=bias)
    FORMS[form](ctx)
    for name in ctx.together:
        tensors = store_together(ctx, name, tensors)
    return dict(tensors)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_experts_are_loaded_from_every_form(form: str, bias: bool) -> None:
    apart = checkpoint(bias)
    expected = result(load(apart, bias=bias))
    assert torch.equal(result(load(apart, form, bias=bias)), expected)
    stacked = together(form, apart, bias)
    assert not stacked.keys() & apart.keys()
    assert torch.equal(result(load(stacked, form, bias=bias)), expected)
    assert bool(bias) == any("bias" in name for name in stacked)


def test_a_stack_is_stored_as_it_says() -> None:
    """Against tensors that are put together here, by index."""
    apart = checkpoint(bias=True)
    gate, up = (torch.stack([apart[f"{name}.{w}.weight"] for name in EXPERTS]) for w in ("w1", "w3"))
    stacks = together("alternating", apart, True)
    for e, row in ((0, 0), (3, 5), (E - 1, INNER - 1)):
        assert torch.equal(stacks["layer.gate_up_proj"][e, :, 2 * row], gate[e, row])
        assert torch.equal(stacks["layer.gate_up_proj"][e, :, 2 * row + 1], up[e, row])
        assert stacks["layer.gate_up_proj_bias"][e, 2 * row + 1] == apart[f"{EXPERTS[e]}.w3.bias"][row]
        assert torch.equal(stacks["layer.down_proj"][e, row], apart[f"{EXPERTS[e]}.w2.weight"][:, row])
    stacks = together("gate_up and down", apart, True)
    assert torch.equal(stacks["layer.gate_up_proj"], torch.cat([gate, up], 1))
    assert stacks["layer.down_proj_bias"].shape == (E, CHANNELS)


def test_one_of_several_forms_is_taken() -> None:
    apart = checkpoint()
    expected = result(load(apart))
    for form in ("gate_up and down", "three stacks"):
        ctx = context()
        layer = ctx.experts(NAMES, CHANNELS, INNER, TOP)
        for declared in ("gate_up and down", "three stacks"):
            FORMS[declared](ctx)
        WeightReader(ctx, choices(), {}).load(lazy_tensors(together(form, apart, False)))
        assert torch.equal(result(layer), expected)


def test_biases_may_lack_and_be_named_with_a_point() -> None:
    stacks = together("three stacks", checkpoint(bias=True), True)
    named = {name.replace("_bias", ".bias"): value for name, value in stacks.items()}
    assert torch.equal(result(load(named, "three stacks", bias=True)), result(load(stacks, "three stacks", bias=True)))
    without = {name: value for name, value in stacks.items() if name != "layer.up_exps_bias"}
    with pytest.raises(CheckpointError, match=r"missing: .*experts\.0\.w3\.bias"):
        load(without, "three stacks", bias=True)
    zeros = {**stacks, "layer.up_exps_bias": torch.zeros(E, INNER)}
    found = result(load(without, "three stacks", bias="optional"))
    assert torch.equal(found, result(load(zeros, "three stacks", bias=True)))
    plain = {name: value for name, value in stacks.items() if "bias" not in name}
    layer = load(plain, "three stacks", bias="optional")
    assert layer.kernel is not None
    assert layer.nbytes == 4 * 3 * E * CHANNELS * INNER
    assert torch.equal(result(layer), result(load(checkpoint())))
    with pytest.raises(CheckpointError, match=r"unexpected: .*_exps_bias"):
        load(stacks, "three stacks")


@pytest.mark.parametrize("form", FORMS)
def test_what_is_missing_or_misshapen_is_named(form: str) -> None:
    stacks = together(form, checkpoint(bias=True), True)
    for name, value in stacks.items():
        for wrong in (value[:-1], value[..., :-1], value.flatten(0, 1)):
            with pytest.raises(CheckpointError, match=f"of the wrong shape: {name} is"):
                load({**stacks, name: wrong}, form, bias=True)
    apart = checkpoint()
    del apart[f"{NAMES[2][1]}.weight"]
    with pytest.raises(CheckpointError, match=r"missing: layer\.experts\.2\.w3\.weight"):
        load(apart, form)


def test_a_form_that_all_checkpoints_have_is_what_is_expected() -> None:
    ctx = context()
    ctx.experts(NAMES, CHANNELS, INNER, TOP, bias=True)
    ctx.stored_together(
        "layer.gate_up_proj", [[g, u] for g, u, _ in NAMES], required=True, alternating=True, transposed=True
    )
    ctx.stored_together("layer.down_proj", [[d] for _, _, d in NAMES], required=True, transposed=True)
    reader = WeightReader(ctx, choices(), {})
    assert reader.expected() == {
        "layer.gate_up_proj": (E, CHANNELS, 2 * INNER),
        "layer.down_proj": (E, INNER, CHANNELS),
        "layer.gate_up_proj_bias": (E, 2 * INNER),
        "layer.down_proj_bias": (E, CHANNELS),
    }
    with pytest.raises(CheckpointError) as failure:
        reader.load([])
    for name in reader.expected():
        assert name in str(failure.value)


def test_a_stack_is_read_once_for_its_layer_and_not_kept() -> None:
    stacks, reads = together("gate_up and down", checkpoint(), False), []

    def lazy(name: str, value: Tensor) -> LazyTensor:
        def read() -> Tensor:
            reads.append(name)
            return value

        return LazyTensor(name, tuple(value.shape), "float32", read)

    load([lazy(name, value) for name, value in stacks.items()], "gate_up and down")
    assert sorted(reads) == sorted(stacks)


def test_a_stack_s_packed_rows_may_be_in_one_dimension() -> None:
    """As containers hand out block-quantized types: uint8 [rows of all experts, bytes of a row]."""
    stacks = together("three stacks", checkpoint(), False)
    flat = [
        LazyTensor(name, tuple(value.shape), "float32", lambda value=value: value.flatten(0, 1))
        for name, value in stacks.items()
    ]
    assert torch.equal(result(load(flat, "three stacks")), result(load(checkpoint())))


def test_a_stack_that_reads_as_less_than_announced_is_refused() -> None:
    stacks = lazy_tensors(together("gate_up and down", checkpoint(), False))
    cut = [replace(lazy, read=lambda lazy=lazy: lazy.read()[:-1]) for lazy in stacks]
    with pytest.raises(CheckpointError, match=r"tensor layer\.\w+_proj was announced as float32"):
        load(cut, "gate_up and down")


class Unadded:
    """A communicator that leaves it to the test to add what the ranks have."""

    def all_reduce(self, x: Tensor) -> Tensor:
        return x

    def all_gather(self, x: Tensor, sizes: Sequence[int]) -> Tensor:
        return x


@pytest.mark.parametrize("form", [None, *FORMS])
def test_each_rank_keeps_its_experts_alone(form: str | None) -> None:
    apart = checkpoint(bias=True)
    tensors = apart if form is None else together(form, apart, True)
    expected, total, held = result(load(apart, bias=True)), torch.zeros(9, CHANNELS), 0
    for rank in range(4):
        layer = load(tensors, form, Parallel(rank, 4, Unadded()), bias=True)
        total += result(layer)
        held += layer.nbytes
        assert isinstance(layer.kernel, GroupedExperts)
        for expert in layer.kernel.experts:
            for kernel in (*expert.gate_up, expert.down):
                assert isinstance(kernel, DenseKernel)
                assert kernel.weight.untyped_storage().nbytes() == kernel.weight.nbytes
    torch.testing.assert_close(total, expected, rtol=1e-5, atol=1e-5)
    assert held == 4 * E * (3 * CHANNELS * INNER + 2 * INNER + CHANNELS)


class Declining(GroupedExperts):
    @classmethod
    def unsupported_reason(cls, weights: ExpertWeights) -> str | None:
        return f"takes 128 experts, not {weights.total}"


def test_the_next_kernel_is_tried_and_reasons_are_told() -> None:
    ctx = context()
    layer = ctx.experts(NAMES, CHANNELS, INNER, TOP)
    linear = choices()[1]
    both = WeightChoice("experts", "float32", DenseFormat, [("picky", Declining), ("every", EveryExpert)])
    reader = WeightReader(ctx, [both, linear], {})
    reader.load(lazy_tensors(checkpoint()))
    assert type(layer.kernel) is EveryExpert
    assert reader.used == {"every": 1, "dense": 2 * E}
    ctx = context()
    ctx.experts(NAMES, CHANNELS, INNER, TOP)
    only = WeightChoice("experts", "float32", DenseFormat, [("picky", Declining)])
    with pytest.raises(
        ResolutionError, match=r"kernel for 6 experts of type float32, found none \(picky: takes 128 experts"
    ):
        WeightReader(ctx, [only, linear], {}).load(lazy_tensors(checkpoint()))


def test_progress_counts_each_expert() -> None:
    ctx, told = context(), []
    ctx.experts(NAMES, CHANNELS, INNER, TOP)
    FORMS["gate_up and down"](ctx)
    tensors = lazy_tensors(together("gate_up and down", checkpoint(), False))
    WeightReader(ctx, choices(), {}).load(tensors, lambda done, total: told.append((done, total)))
    assert told == [(0, 3 * E * CHANNELS * INNER), (3 * E * CHANNELS * INNER, 3 * E * CHANNELS * INNER)]


# Adapters.


@pytest.mark.parametrize("module", ["layer.experts.3.w1", "layer.gate_up_proj", "layer.experts.3", "layer.experts"])
def test_an_adapter_of_experts_is_refused_by_name(module: str) -> None:
    ctx = context(max_loras=1, max_lora_rank=4)
    ctx.linear("layer.gate", CHANNELS, E)
    ctx.experts(NAMES, CHANNELS, INNER, TOP)
    FORMS["gate_up and down"](ctx)
    ctx.stored_together("layer.experts.stack", [[d] for _, _, d in NAMES])
    targets = LoraTargets.of(ctx)

    def tensors(name: str, rows: int) -> list[LazyTensor]:
        named = f"base_model.model.{name}.lora_"
        return lazy_tensors({f"{named}A.weight": torch.ones(2, CHANNELS), f"{named}B.weight": torch.ones(rows, 2)})

    config = {"peft_type": "LORA", "r": 2}
    with pytest.raises(RequestError, match=rf"experts, which take no adapter: {module.replace('.', '[.]')}[;)]?"):
        read_adapter("the adapter", config, [*tensors("layer.gate", E), *tensors(module, INNER)], targets)
    assert set(read_adapter("the adapter", config, tensors("layer.gate", E), targets)) == {"layer.gate"}
