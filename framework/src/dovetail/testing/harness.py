"""Builds and runs a model with the framework only, one simple step at a time, as the engine does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from dovetail.api import LayerKind, LazyTensor, ModelCard, ModelConfig, PluginError
from dovetail.kernel.blame import describe_type
from dovetail.kernel.discovery import import_dotted
from dovetail.kernel.validation import validate_config
from dovetail.nn import (
    AttentionBackend,
    AttentionSpec,
    CausalLM,
    Context,
    Head,
    HostLengths,
    KVIndex,
    Ops,
    Parallel,
    PoolingModel,
    Step,
)
from dovetail.nn.attention import group_layers
from dovetail.nn.checked_parts import checked_rename
from dovetail.nn.dense import DenseFormat, DenseKernel
from dovetail.nn.experts import EveryExpert
from dovetail.nn.loading import WeightReader
from dovetail.nn.placing import WeightChoice
from dovetail.testing.host_reads import host_reads_refused
from dovetail.testing.reference import ReferenceAttention
from dovetail.testing.resolution import part_of

Checkpoint = Mapping[str, Tensor] | Sequence[LazyTensor]

FLOATS = ("float64", "float32", "bfloat16", "float16")
KINDS: tuple[LayerKind, ...] = ("linear", "head", "embedding")


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one thread. At the kit's small shapes, waiting for torch's threads costs more than the work; on a busy
    machine, a hundred times more.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def dtype_name(dtype: torch.dtype) -> str:
    """A dtype's name as cards and lazy tensors write it."""
    return str(dtype).removeprefix("torch.")


def lazy_tensors(tensors: Mapping[str, Tensor]) -> list[LazyTensor]:
    """Lazy tensors over tensors in memory, as a loader yields them."""
    return [
        LazyTensor(name, tuple(value.shape), dtype_name(value.dtype), partial(_identity, value))
        for name, value in tensors.items()
    ]


def _identity(value: Tensor) -> Tensor:
    return value


def parse_config(card: ModelCard, config: Mapping[str, Any]) -> ModelConfig:
    """The configuration as the card's own class; ``architectures`` defaults to the card's first."""
    config_class: type[ModelConfig] = import_dotted(card.config)
    return validate_config(config_class, {"architectures": list(card.architectures[:1]), **config}, "the test")


def empty_model(
    card: ModelCard,
    config: Mapping[str, Any],
    *,
    dtype: str = "float32",
    max_tokens: int | None = None,
    attention: type[AttentionBackend] = ReferenceAttention,
    ops: Ops | None = None,
    block_size: int = 8,
    parallel: Parallel | None = None,
) -> tuple[PoolingModel, Context]:
    """A model without weights, and the context that knows which tensors it expects."""
    parsed = parse_config(card, config)
    device, torch_dtype = torch.device("cpu"), getattr(torch, dtype)
    ctx = Context(
        device=device,
        dtype=torch_dtype,
        ops=ops or Ops(),
        attention=attention(device=device, dtype=torch_dtype, kv_dtype=torch_dtype, block_size=block_size),
        max_tokens=max_tokens or parsed.context_length(),
        parallel=parallel,
    )
    model: CausalLM = import_dotted(card.target)(parsed, ctx)
    return model, ctx


def build_model(
    card: ModelCard,
    config: Mapping[str, Any],
    tensors: Checkpoint,
    *,
    dtype: str = "float32",
    max_tokens: int | None = None,
    attention: type[AttentionBackend] = ReferenceAttention,
    ops: Ops | None = None,
    block_size: int = 8,
    parallel: Parallel | None = None,
    choices: Iterable[WeightChoice] | None = None,
) -> tuple[PoolingModel, Context]:
    """A model with its weights, and its context.

    Args:
        config: as in ``config.json``.
        tensors: by checkpoint name, or as a loader yields them.
        dtype: of activations and weights.
        max_tokens: the longest sequence; the model's context length by default.
        parallel: this rank's place among several, as :func:`dovetail.testing.run_ranks` gives it.
        choices: formats and kernels of the weights, best first; those of full precision by default.

    Raises:
        ConfigError: the configuration does not fit the model.
        CheckpointError: the tensors do not.
    """
    model, ctx = empty_model(
        card,
        config,
        dtype=dtype,
        max_tokens=max_tokens,
        attention=attention,
        ops=ops,
        block_size=block_size,
        parallel=parallel,
    )
    rename = checked_rename(part_of(card), model.rename)
    reader = WeightReader(ctx, choices or dense_choices(), dict(config), rename=rename)
    reader.load(lazy_tensors(tensors) if isinstance(tensors, Mapping) else tensors)
    return model, ctx


def random_checkpoint(
    card: ModelCard, config: Mapping[str, Any], *, seed: int = 0, dtype: str = "float32", optional: bool = False
) -> dict[str, Tensor]:
    """All tensors of the model by checkpoint name, with random values that keep activations near one.

    Args:
        optional: include tensors that a checkpoint may omit.
    """
    _, ctx = empty_model(card, config)
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    tensors = {}
    for name, layer in ctx.layers.items():
        if isinstance(layer, Head) and layer.tied is not None and not optional:
            continue
        weight = noise(*layer.parts[name]) * layer.parts[name][1] ** -0.5  # [N, K]
        tensors[f"{name}.weight"] = weight.t().contiguous() if name in ctx.transposed else weight
    for name, bias in ctx.biases.items():
        if bias.required or optional:
            tensors[name] = 0.1 * noise(bias.layer.parts[bias.part][0])
    for name, vector in ctx.vectors.items():
        if vector.required or optional:
            tensors[name] = 1 + 0.1 * noise(*vector.shape)  # most are scales
    for name, stored in ctx.together.items():
        if stored.required:
            tensors = store_together(ctx, name, tensors)
    return {name: value.to(getattr(torch, dtype)) for name, value in tensors.items()}


def store_together(ctx: Context, name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A full-precision checkpoint that has weights, and their biases, as one tensor in place of several.

    Args:
        name: as in :meth:`dovetail.nn.Context.stored_together`.
        tensors: by checkpoint name, with each weight on its own.
    """
    stored, left = ctx.together[name], dict(tensors)

    def join(ending: str) -> Tensor:
        groups = [[left.pop(f"{part}.{ending}") for part in group] for group in stored.groups]
        whole = [torch.stack(g, 1).flatten(0, 1) if stored.alternating else torch.cat(g) for g in groups]
        return torch.stack(whole) if stored.stacked else whole[0]

    bias = f"{stored.groups[0][0]}.bias" in left
    weight = join("weight")
    left[name if stored.stacked else f"{name}.weight"] = weight.mT.contiguous() if name in ctx.transposed else weight
    if bias:
        left[f"{name}_bias" if stored.stacked else f"{name}.bias"] = join("bias")
    return left


def dense_choices() -> list[WeightChoice]:
    """The choices for full-precision weights in every kind of layer."""
    kernels: dict[LayerKind, Any] = {kind: [("dense", DenseKernel)] for kind in KINDS}
    kernels["experts"] = [("every-expert", EveryExpert)]
    return [WeightChoice(kind, type_, DenseFormat, kernels[kind]) for kind in kernels for type_ in FLOATS]


class BlockTables:
    """Block tables with blocks in shuffled order, so that a backend cannot rely on their order. Block 0 is the null
    block.

    Args:
        lengths: maximum number of tokens of each request.
        spare: further blocks that no request owns.
    """

    def __init__(self, lengths: Sequence[int], block_size: int, *, spare: int = 2, seed: int = 0) -> None:
        self.block_size = block_size
        counts = [-(-length // block_size) for length in lengths]
        self.blocks = 1 + sum(counts) + spare
        order = (1 + torch.randperm(self.blocks - 1, generator=torch.Generator().manual_seed(seed))).tolist()
        ends = list(accumulate(counts))
        self.tables: list[list[int]] = [order[end - n : end] for n, end in zip(counts, ends, strict=True)]
        self.computed = [0] * len(lengths)
        """Tokens of each request that are in the cache."""

    def share(self, request: int, owner: int, blocks: int) -> None:
        """Give a request that has not started the first blocks of another, as a hit in the prefix cache does."""
        assert self.computed[request] == 0, f"request {request} has begun"
        self.tables[request][:blocks] = self.tables[owner][:blocks]
        self.computed[request] = blocks * self.block_size

    def step(
        self,
        new: Mapping[int, Sequence[int]],
        device: torch.device,
        groups: Sequence[AttentionSpec | None] = (None,),
        columns: int = 0,
    ) -> Step:
        """The step that adds these tokens to these requests, in this order; afterwards they count as computed.

        Args:
            groups: a layer of each cache group, or None for causal attention over everything. The groups use the same
                blocks, but each drops those that it does not see any more.
            columns: additional width of the block tables.
        """
        size = self.block_size
        tokens = [t for ids in new.values() for t in ids]
        positions = [self.computed[r] + i for r, ids in new.items() for i in range(len(ids))]
        owners = [r for r, ids in new.items() for _ in ids]
        slots = [self.tables[r][p // size] * size + p % size for r, p in zip(owners, positions, strict=True)]
        for request, ids in new.items():
            self.computed[request] += len(ids)
        lengths = [self.computed[r] for r in new]
        counts = [len(ids) for ids in new.values()]
        width = max(-(-length // size) for length in lengths) + columns
        tables = torch.zeros(len(groups), len(new), width, dtype=torch.int32)
        for group, spec in enumerate(groups):
            for row, (request, length) in enumerate(zip(new, lengths, strict=True)):
                left = 0 if spec is None else spec.visible(length - counts[row], length).start // size
                used = self.tables[request][left : -(-length // size)]
                tables[group, row, left : left + len(used)] = torch.tensor(used, dtype=torch.int32)
        starts = [0, *accumulate(counts)]
        where = torch.tensor(slots, dtype=torch.int64, device=device)
        return Step(
            tokens=torch.tensor(tokens, dtype=torch.int64, device=device),
            positions=torch.tensor(positions, dtype=torch.int64, device=device),
            query_start=torch.tensor(starts, dtype=torch.int32, device=device),
            seq_lens=torch.tensor(lengths, dtype=torch.int32, device=device),
            logits_indices=torch.arange(len(tokens), device=device),
            kv=tuple(
                KVIndex(table.to(device), where) if spec is None or spec.causal else KVIndex.empty(len(new), device)
                for table, spec in zip(tables, groups, strict=True)
            ),
            max_query_len=max(counts),
            max_seq_len=max(lengths),
            lengths=HostLengths(counts, lengths),
        )


def _add_images(step: Step, new: Iterable[int], images: Mapping[int, Mapping[int, Tensor]]) -> None:
    owners = [request for request, count in zip(new, step.lengths.query, strict=True) for _ in range(count)]  # type: ignore[union-attr]
    places = enumerate(zip(owners, step.positions.tolist(), strict=True))
    found = {index: images[r][place] for index, (r, place) in places if place in images.get(r, {})}
    if found:
        step.image_indices = torch.tensor([*found], device=step.tokens.device)
        step.image_rows = torch.stack([*found.values()])


@one_thread()
def run_batch(
    model: PoolingModel,
    ctx: Context,
    schedule: Sequence[Mapping[int, Sequence[int]]],
    images: Mapping[int, Mapping[int, Tensor]] | None = None,
    rope_positions: Tensor | None = None,
) -> dict[int, Tensor]:
    """Run steps with several requests. A read of a tensor on the host in the model's own code is refused.

    Args:
        schedule: for each step, the new tokens of each of its requests (numbered from 0).
        images: request → place of a token → its embedding of an image, ``[C]``.
        rope_positions: int64 ``[3, T]``, of all tokens of the only request.

    Returns:
        The logits of every token of every request: request → ``[tokens, V]``, float32; of a model that has none, the
            hidden states ``[tokens, C]``.

    Raises:
        PluginError: the model's ``forward`` gives no tensor.
    """
    totals: dict[int, int] = {}
    for new in schedule:
        for request, ids in new.items():
            totals[request] = totals.get(request, 0) + len(ids)
    tables = BlockTables([totals.get(r, 0) for r in range(max(totals) + 1)], ctx.backend.block_size)
    for layer in ctx.attention_layers:
        if layer.spec.causal and layer.source is None:
            layer.cache = ctx.backend.allocate(layer.spec, tables.blocks)
    groups = group_layers(ctx.attention_layers)
    logits: dict[int, list[Tensor]] = {r: [] for r in totals}
    with torch.inference_mode():
        for new in schedule:
            step = tables.step(new, ctx.device, [group.spec for group in groups])
            for index, group in zip(step.kv, groups, strict=True):
                index.metadata = ctx.backend.prepare(step, index, group.specs)
            if images:
                _add_images(step, new, images)
            if rope_positions is not None:
                step.rope_positions = rope_positions[:, step.positions]
            with host_reads_refused(ctx):
                hidden: Any = model(step)  # [T, C]
                if not isinstance(hidden, Tensor):
                    who, found = type(model).__name__, describe_type(hidden)
                    raise PluginError(f"the model {who} answered forward() with {found}, wanted hidden states [T, C]")
                rows = hidden[step.logits_indices]
                if isinstance(model, CausalLM):
                    rows = model.logits(rows)  # [T, V]
            for request, part in zip(new, rows.float().split([len(ids) for ids in new.values()]), strict=True):
                logits[request].append(part)
    return {request: torch.cat(parts) for request, parts in logits.items()}


def run_tokens(
    model: PoolingModel, ctx: Context, tokens: Sequence[int], chunks: int | Iterable[int] | None = None
) -> Tensor:
    """The logits (or else hidden states) of every token of one sequence: ``[T, V]``, float32.

    Args:
        chunks: tokens computed in each step: one size for all, or a size for each; None computes all at once.
    """
    if chunks is None:
        chunks = len(tokens)
    sizes = [chunks] * -(-len(tokens) // chunks) if isinstance(chunks, int) else list(chunks)
    starts = [0, *accumulate(sizes)]
    assert starts[-1] >= len(tokens), f"chunks of {sizes} do not cover {len(tokens)} tokens"
    return run_batch(model, ctx, [{0: tokens[a : a + n]} for a, n in zip(starts, sizes, strict=False)])[0]
