"""Conformance tests of attention backends. The cases are made from the card.

Letters: T tokens, H query heads, K key-value heads, D head dimension.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, get_args
from unittest import SkipTest

import torch
from torch import Tensor

from dovetail.api import AttentionCard, AttentionFeature, AttentionRequirement, ModelCard, ResolutionError
from dovetail.kernel.discovery import import_dotted
from dovetail.kernel.options import PlanOptions
from dovetail.kernel.resolve import find_attention
from dovetail.nn import AttentionBackend, AttentionSpec, HostLengths, KVIndex, Step
from dovetail.testing.comparison import assert_close, dtype_of, label, tolerance
from dovetail.testing.harness import BlockTables, one_thread
from dovetail.testing.invariance import check_attention_by_token
from dovetail.testing.reference import ReferenceAttention
from dovetail.testing.resolution import assert_refused, claim, make_registry, refusal_message, skip_unless_present

HEAD_DIMS = (16, 64, 80, 128)
"""Tested if a card supports any head size."""
BLOCK_SIZES = (1, 16, 32)
"""Tested if a card supports any block size."""
RATIOS = ((4, 4), (6, 2), (8, 1))
"""Query heads and key-value heads."""
DTYPES = ("float32", "bfloat16", "float16")
WINDOW = 11

LENGTHS = (44, 45, 40, 9, 26, 45)
SCHEDULE: tuple[tuple[tuple[int, int], ...], ...] = (
    ((0, 17), (1, 5)),  # prefill
    ((1, 1), (0, 9), (2, 33)),  # decode, chunk and prefill
    ((0, 1), (1, 1), (2, 1)),  # decode
    ((5, 6), (3, 1), (1, 37), (0, 16), (4, 25)),  # a prompt of one token beside long chunks
    ((4, 1), (2, 6), (0, 1), (5, 1), (3, 8), (1, 1)),
)
"""(request, new tokens) of each step; requests start, end and change places as in an engine."""
SHARED = (3, 5, 1, 32)
"""In this step, two requests share this many tokens, or the whole blocks among them; most are written in the same
step.
"""


@dataclass(frozen=True)
class Case:
    """One combination of a card's claims."""

    features: tuple[AttentionFeature, ...]
    dtype: str
    kv_dtype: str
    head_dim: int
    block_size: int
    num_heads: int
    num_kv_heads: int

    def spec(self) -> AttentionSpec:
        window = WINDOW if "sliding" in self.features else None
        return AttentionSpec(self.num_heads, self.num_kv_heads, self.head_dim, self.head_dim**-0.5, window)

    def __str__(self) -> str:
        cache = "" if self.kv_dtype == self.dtype else f" with a cache in {self.kv_dtype}"
        return (
            f"{'+'.join(self.features) or 'plain'} attention in {self.dtype}{cache}, {self.num_heads}/{self.num_kv_heads} heads of {self.head_dim}, "
            f"blocks of {self.block_size}"
        )


def make_cases(card: AttentionCard) -> Iterator[Case]:
    """Every value of every claim, combined with the first value of the others; kinds and dtypes in all combinations."""
    head_dims, block_sizes = card.head_dims or HEAD_DIMS, card.block_sizes or BLOCK_SIZES
    heads, num_kv_heads = RATIOS[1]
    for features in ((), *((feature,) for feature in card.features)):
        for dtype in card.dtypes:
            yield Case(features, dtype, dtype, head_dims[0], block_sizes[-1], heads, num_kv_heads)
        base = Case(features, card.dtypes[0], card.dtypes[0], head_dims[0], block_sizes[-1], heads, num_kv_heads)
        for head_dim in head_dims[1:]:
            yield replace(base, head_dim=head_dim)
        for block_size in block_sizes[:-1]:
            yield replace(base, block_size=block_size)
        for kv_dtype in card.kv_dtypes:
            yield replace(base, kv_dtype=kv_dtype)
        for heads_, kv_heads_ in (RATIOS[0], RATIOS[2]):
            yield replace(base, num_heads=heads_, num_kv_heads=kv_heads_)


@one_thread()
def check_attention(card: AttentionCard, *, reference: type[ReferenceAttention] = ReferenceAttention) -> None:
    """Check every claim of an attention backend's card.

    For each claimed kind, dtype, cache dtype, head size and block size, and for several ratios of query to key-value
    heads, runs prefills, chunks and decodes of several requests in mixed batches, in a cache whose unused slots hold
    values of earlier requests, and compares every token and head with the reference. If the backend says that it is
    batch invariant, the results of several ways to compute a request must be bitwise equal. Then it checks that
    resolution refuses, with the reason, kinds, head sizes, block sizes, dtypes and devices that are not claimed.

    Args:
        reference: a subclass of the reference that knows the card's further kinds.

    Raises:
        AssertionError: names the claim that failed.
        SkipTest: the card's probe rejects this machine, or none of its devices is available.
    """
    check_attention_refusals(card)
    for feature in card.features:
        assert feature in reference.features, (
            f"{label(card)} claims {feature} attention, for which the reference is missing: give a subclass of ReferenceAttention"
        )
    skip_unless_present(card, card.probe)
    for device in available_devices(card.devices, label(card)):
        for case in make_cases(card):
            text = f"{label(card)} claims {case}"
            with claim(text):
                _compare(card, case, device, reference, text)
        _check_invariance(card, device)


def available_devices(devices: tuple[str, ...], who: str) -> list[torch.device]:
    """Those of the devices that this machine has.

    Raises:
        SkipTest: there is none.
    """
    here = {"cpu"}
    if torch.accelerator.is_available():
        here.add(torch.accelerator.current_accelerator().type)  # type: ignore[union-attr]
    found = sorted(here) if "*" in devices else [d for d in devices if d in here]
    if not found:
        raise SkipTest(f"{who} runs on {', '.join(devices)}; found {', '.join(sorted(here))}")
    return [torch.device(d) for d in found]


def _backend(cls: type[AttentionBackend], case: Case, device: torch.device) -> AttentionBackend:
    return cls(device=device, dtype=dtype_of(case.dtype), kv_dtype=dtype_of(case.kv_dtype), block_size=case.block_size)


def _check_invariance(card: AttentionCard, device: torch.device) -> None:
    """Check batch invariance for every claimed kind and dtype, if the backend says that it is batch invariant."""
    cls: type[AttentionBackend] = import_dotted(card.target)
    text = f"{label(card)} claims to be batch invariant"
    if not cls.batch_invariant:
        return
    heads, num_kv_heads = RATIOS[1]
    dim, size = (card.head_dims or (64,))[0], (card.block_sizes or (16,))[-1]
    for features in ((), *((feature,) for feature in card.features)):
        for dtype in card.dtypes:
            case = Case(features, dtype, dtype, dim, size, heads, num_kv_heads)
            spec = replace(case.spec(), window=150 if "sliding" in features else None)
            with claim(f"{text}: {case}"):
                check_attention_by_token(partial(_backend, cls, case, device), spec, f"{text}: {case}")


def _compare(
    card: AttentionCard, case: Case, device: torch.device, reference: type[ReferenceAttention], text: str
) -> None:
    backend = _backend(import_dotted(card.target), case, device)
    oracle = _backend(reference, case, torch.device("cpu"))
    spec, generator = case.spec(), torch.Generator().manual_seed(0)
    # Layers that differ in scale alone share a step's metadata.
    specs = frozenset({spec, replace(spec, scale=2 * spec.scale)})
    tables = BlockTables(LENGTHS, case.block_size)
    cache, truth = backend.allocate(spec, tables.blocks), oracle.allocate(spec, tables.blocks)
    _check_size(backend, spec, cache, tables.blocks, text)
    _poison(backend, spec, specs, cache, tables.blocks, device)

    def heads(tokens: int, count: int) -> Tensor:
        return torch.randn(tokens, count, case.head_dim, generator=generator).to(dtype_of(case.dtype))

    host = torch.device("cpu")
    for number, entries in enumerate(SCHEDULE):
        if number == SHARED[0]:
            tables.share(SHARED[1], SHARED[2], SHARED[3] // case.block_size)
        # Block tables are as wide as the longest request may become, not as this step needs.
        step = tables.step({request: [0] * count for request, count in entries}, host, (spec.window,), columns=3)
        tokens = int(step.tokens.shape[0])
        q, k, v = heads(tokens, case.num_heads), heads(tokens, case.num_kv_heads), heads(tokens, case.num_kv_heads)
        with torch.inference_mode():
            oracle.prepare(step, step.kv[0], frozenset({spec}))
            expected = oracle.forward(q, k, v, truth, step, step.kv[0], spec)
            there = _move_step(step, device)
            (index,) = there.kv
            index.metadata = backend.prepare(there, index, specs)
            inputs = [x.to(device, copy=True) for x in (q, k, v)]
            found = backend.forward(inputs[0], inputs[1], inputs[2], cache, there, index, spec)
        assert found.dtype == dtype_of(case.dtype), f"{text}: the result is {found.dtype}"
        for name, before, after in zip("qkv", (q, k, v), inputs, strict=True):
            assert torch.equal(before, after.cpu()), f"{text}: {name} is changed"
        assert_close(found, expected, tolerance(dtype_of(case.dtype)), f"{text}: step {number} of mixed batches")


def _move_step(step: Step, device: torch.device) -> Step:
    tensors: dict[str, Any] = {
        name: value.to(device) for name, value in vars(step).items() if isinstance(value, Tensor)
    }
    kv = tuple(KVIndex(index.block_tables.to(device), index.slot_mapping.to(device)) for index in step.kv)
    return replace(step, kv=kv, **tensors)


def _poison(
    backend: AttentionBackend,
    spec: AttentionSpec,
    specs: frozenset[AttentionSpec],
    cache: Any,
    blocks: int,
    device: torch.device,
) -> None:
    """Fill the cache with large values, as an earlier request may leave them, so that reading a stale slot is
    noticed.
    """
    tokens = blocks * backend.block_size
    everything = torch.arange(tokens, device=device)
    step = Step(
        tokens=torch.zeros_like(everything),
        positions=everything,
        query_start=torch.tensor([0, tokens], dtype=torch.int32, device=device),
        seq_lens=torch.tensor([tokens], dtype=torch.int32, device=device),
        logits_indices=everything[-1:],
        kv=(KVIndex(torch.arange(blocks, dtype=torch.int32, device=device)[None], everything),),
        max_query_len=tokens,
        max_seq_len=tokens,
        lengths=HostLengths([tokens], [tokens]),
    )
    (index,) = step.kv
    shape = (tokens, spec.num_kv_heads, spec.head_dim)
    # Small enough that products with queries stay finite in float16.
    k = torch.full(shape, 8.0, dtype=backend.dtype, device=device)
    v = torch.full(shape, 400.0, dtype=backend.dtype, device=device)
    q = torch.zeros(tokens, spec.num_heads, spec.head_dim, dtype=backend.dtype, device=device)
    with torch.inference_mode():
        index.metadata = backend.prepare(step, index, specs)
        backend.forward(q, k, v, cache, step, index, spec)


def _check_size(backend: AttentionBackend, spec: AttentionSpec, cache: Any, blocks: int, text: str) -> None:
    """A cache must not be larger than ``block_bytes`` says, because memory is planned with it."""
    tensors = [cache] if isinstance(cache, Tensor) else list(cache) if isinstance(cache, tuple | list) else []
    held = sum(t.nbytes for t in tensors if isinstance(t, Tensor))
    planned = blocks * backend.block_bytes(spec)
    assert held <= planned, f"{text}: a cache of {blocks} blocks holds {held} bytes, block_bytes() says {planned}"


def _resolve(card: AttentionCard, **changes: Any) -> None:
    """Resolve attention for a claim of the card, with the given changes."""
    device = next(iter(card.devices))
    expected: Mapping[str, Any] = {
        "features": (),
        "head_dim": (card.head_dims or HEAD_DIMS)[0],
        "dtype": card.dtypes[0],
        "block_size": (card.block_sizes or BLOCK_SIZES)[-1],
        "device": "cpu" if device == "*" else device,
        **changes,
    }
    requirement = AttentionRequirement(features=frozenset(expected["features"]), head_dim=expected["head_dim"])
    model = ModelCard(
        name="any", architectures=("Any",), target="any:any", config="any:any", attention=get_args(AttentionFeature)
    )
    dtype = expected["dtype"]
    kv_dtype = expected.get("kv_dtype", dtype)
    options = PlanOptions(block_size=expected["block_size"])
    find_attention(options, (requirement,), model, expected["device"], dtype, kv_dtype, make_registry(card), [])


def check_attention_refusals(card: AttentionCard) -> None:
    """Check that resolution selects the card for what it claims, and refuses it with the reason for everything else."""
    refused = partial(_check_refused, card)
    for feature in set(get_args(AttentionFeature)) - set(card.features):
        refused("features", (feature,))
    for dtype in set(DTYPES) - set(card.dtypes):
        refused("dtype", dtype)
    if "*" not in card.devices:
        refused("device", "nowhere")
    if card.head_dims is not None:
        refused("head_dim", max(card.head_dims) + 1)
    if card.block_sizes is not None:
        refused("block_size", max(card.block_sizes) + 1)
    refused("kv_dtype", "int4")
    objection = refusal_message(partial(_resolve, card), ResolutionError)
    # A probe's objection is this machine's, not the card's.
    assert objection is None or card.probe, f"{label(card)} claims what resolution refuses: {objection}"


def _check_refused(card: AttentionCard, what: str, value: Any) -> None:
    text = f"{label(card)} does not claim the {what} {value}"
    assert_refused(lambda: _resolve(card, **{what: value}), text, value[0] if isinstance(value, tuple) else str(value))
