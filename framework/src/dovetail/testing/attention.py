"""Conformance tests of attention backends. The cases are made from the card.

Letters: T tokens, H query heads, K key-value heads, D head dimension, V channels of a value.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import Any, get_args
from unittest import SkipTest

import torch
from torch import Tensor

from dovetail.api import AttentionCard, AttentionFeature, AttentionRequirement, ResolutionError
from dovetail.api.cards import APART
from dovetail.kernel.discovery import import_dotted
from dovetail.kernel.options import PlanOptions
from dovetail.kernel.resolve import find_attention
from dovetail.nn import AttentionBackend, AttentionSpec, KVIndex, Step
from dovetail.testing.attention_layers import LayerUnderTest, draw_inputs
from dovetail.testing.comparison import assert_close, dtype_of, label, tolerance
from dovetail.testing.harness import BlockTables, one_thread
from dovetail.testing.invariance import check_attention_by_token
from dovetail.testing.reference import ReferenceAttention
from dovetail.testing.resolution import assert_refused, claim, make_registry, refusal_message, skip_unless_present

HEAD_DIMS = (16, 64, 80, 128)
"""Tested if a card supports any head size."""
VALUE_DIMS = ((24, 16), (16, 40))
LATENT_DIMS = ((80, 64),)
"""Sizes of keys and of values that are tested then, for ``value_dim`` and ``latent``."""
BLOCK_SIZES = (1, 16, 32)
"""Tested if a card supports any block size."""
RATIOS = ((4, 4), (6, 2), (8, 1))
"""Query heads and key-value heads."""
DTYPES = ("float32", "bfloat16", "float16")
WINDOW, CHUNK = 11, 13
SOFTCAP = 1.5
"""Small enough to bend the scores of random inputs, which are about one."""
STEEPEST = 0.4
"""Slope of the first head; that of the last one is a tenth of it. Random scores are about one, and neither hides the other."""

LENGTHS = (44, 45, 40, 9, 26, 45)
Schedule = tuple[tuple[tuple[int, int], ...], ...]
SCHEDULE: Schedule = (
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
WHOLE: Schedule = (((0, 17), (1, 1)), ((2, 40),), ((5, 45), (3, 9), (4, 26)))
"""Steps of layers that keep no cache."""


@dataclass(frozen=True)
class Case:
    """One combination of a card's claims."""

    features: tuple[AttentionFeature, ...]
    dtype: str
    kv_dtype: str
    size: tuple[int, int]
    """Channels of a key and of a value."""
    block_size: int
    num_heads: int
    num_kv_heads: int

    def spec(self, window: int = WINDOW, chunk: int = CHUNK) -> AttentionSpec:
        has, latent = set(self.features), "latent" in self.features
        slopes = tuple(STEEPEST * 10 ** (-head / (self.num_heads - 1)) for head in range(self.num_heads))
        return AttentionSpec(
            num_heads=self.num_heads,
            num_kv_heads=1 if latent else self.num_kv_heads,
            head_dim=self.size[0],
            scale=self.size[0] ** -0.5,
            window=window if "sliding" in has else None,
            chunk=chunk if "chunked" in has else None,
            softcap=SOFTCAP if "softcap" in has else None,
            sinks="sinks" in has,
            alibi_slopes=slopes if "alibi" in has else None,
            causal="bidirectional" not in has,
            value_dim=self.size[1] if latent or "value_dim" in has else None,
            latent=latent,
            shared_cache="shared_cache" in has,
        )

    def __str__(self) -> str:
        cache = "" if self.kv_dtype == self.dtype else f" with a cache in {self.kv_dtype}"
        values = "" if self.size[0] == self.size[1] else f" with values of {self.size[1]}"
        return (
            f"{'+'.join(self.features) or 'plain'} attention in {self.dtype}{cache}, {self.num_heads}/{self.num_kv_heads} "
            f"heads of {self.size[0]}{values}, blocks of {self.block_size}"
        )


def combine_features(card: AttentionCard) -> list[tuple[AttentionFeature, ...]]:
    """Every pair of a card's features that goes together, and two combinations of as many as do."""
    forbidden = [*APART, *map(frozenset, card.exclusive)]

    def go_together(features: Iterable[AttentionFeature]) -> bool:
        return not any(set(features) >= apart for apart in forbidden)

    found: list[tuple[AttentionFeature, ...]] = [pair for pair in combinations(card.features, 2) if go_together(pair)]
    for order in (card.features, card.features[::-1]):
        most: tuple[AttentionFeature, ...] = ()
        for feature in order:
            if go_together((*most, feature)):
                most = (*most, feature)
        found.append(tuple(feature for feature in card.features if feature in most))
    return [features for features in dict.fromkeys(found) if len(features) > 1]


def head_sizes(card: AttentionCard, features: Iterable[AttentionFeature]) -> list[tuple[int, int]]:
    """Sizes of keys and of values that a card claims with these features."""
    features = set(features)
    if card.head_dims is not None:
        if features & {"value_dim", "latent"}:
            found = [size for size in card.head_dims if isinstance(size, tuple)]
            assert found, f"{label(card)} claims {', '.join(sorted(features))}, and its head_dims hold no pair of sizes"
            return found
        return [(size, size) for size in card.head_dims if isinstance(size, int)]
    if "latent" in features:
        return [*LATENT_DIMS]
    return [*VALUE_DIMS] if "value_dim" in features else [(size, size) for size in HEAD_DIMS]


def make_cases(card: AttentionCard) -> Iterator[Case]:
    """For plain attention, every value of every claim, combined with the first value of the others. For each feature
    alone, as few cases as have every value; and one for each combination of features.
    """
    block_sizes, dtype = card.block_sizes or BLOCK_SIZES, card.dtypes[0]
    heads, num_kv_heads = RATIOS[1]
    if plain := head_sizes(card, ()):  # otherwise it is for keys and values of different sizes alone
        base = Case((), dtype, dtype, plain[0], block_sizes[-1], heads, num_kv_heads)
        yield base
        for each in card.dtypes[1:]:
            yield replace(base, dtype=each, kv_dtype=each)
        for size in plain[1:]:
            yield replace(base, size=size)
        for heads_, kv_heads_ in (RATIOS[0], RATIOS[2]):
            yield replace(base, num_heads=heads_, num_kv_heads=kv_heads_)
        for block_size in block_sizes[:-1]:
            yield replace(base, block_size=block_size)
        for kv_dtype in card.kv_dtypes:
            yield replace(base, kv_dtype=kv_dtype)
    for feature in card.features:
        if sizes := head_sizes(card, (feature,)):
            yield from _cover((feature,), card.dtypes, sizes, block_sizes, card.kv_dtypes)
    for features in combine_features(card):
        for size in head_sizes(card, features)[:1]:
            yield Case(features, dtype, dtype, size, block_sizes[-1], heads, num_kv_heads)


def _cover(
    features: tuple[AttentionFeature, ...],
    dtypes: tuple[str, ...],
    sizes: list[tuple[int, int]],
    block_sizes: tuple[int, ...],
    kv_dtypes: tuple[str, ...],
) -> Iterator[Case]:
    """As few cases as have every value of every claim."""
    for i in range(max(len(dtypes), len(sizes), len(block_sizes), len(RATIOS))):
        dtype, size, block_size = dtypes[i % len(dtypes)], sizes[i % len(sizes)], block_sizes[-1 - i % len(block_sizes)]
        yield Case(features, dtype, dtype, size, block_size, *RATIOS[(1 + i) % len(RATIOS)])
    if "bidirectional" not in features:  # otherwise nothing is kept
        for kv_dtype in kv_dtypes:
            yield Case(features, dtypes[0], kv_dtype, sizes[0], block_sizes[-1], *RATIOS[1])


@one_thread()
def check_attention(card: AttentionCard, *, reference: type[ReferenceAttention] = ReferenceAttention) -> None:
    """Check every claim of an attention backend's card.

    For each claimed feature, dtype, cache dtype, head size and block size, for each pair of features that go together,
    and for several ratios of query to key-value heads, runs prefills, chunks and decodes of several requests in mixed
    batches, in a cache whose unused slots hold values of earlier requests, and compares every token and head with the
    reference. Where the backend says that it is batch invariant, the results of several ways to compute a request must
    be bitwise equal. Then it checks that resolution refuses, with the reason, features and combinations of them, head
    sizes, block sizes, dtypes and devices that are not claimed.

    Args:
        reference: a subclass of the reference that knows the card's further features.

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
    """Check batch invariance where the backend says that it is batch invariant: of plain attention and of as many
    features together as go together in every dtype, and of each feature in the first.
    """
    cls: type[AttentionBackend] = import_dotted(card.target)
    heads, num_kv_heads = RATIOS[1]
    block_size = (card.block_sizes or (16,))[-1]
    many = [features for features in combine_features(card) if len(features) > 2]
    for features in ((), *many, *((feature,) for feature in card.features)):
        sizes = head_sizes(card, features)
        for dtype in card.dtypes[: 1 if len(features) == 1 else None]:
            for size in sizes[:1]:
                case = Case(features, dtype, dtype, size, block_size, heads, num_kv_heads)
                spec = case.spec(window=150, chunk=170)
                text = f"{label(card)} claims to be batch invariant: {case}"
                with claim(text):
                    if _backend(cls, case, device).is_batch_invariant(spec):
                        check_attention_by_token(partial(_backend, cls, case, device), spec, text)


def _compare(
    card: AttentionCard, case: Case, device: torch.device, reference: type[ReferenceAttention], text: str
) -> None:
    backend = _backend(import_dotted(card.target), case, device)
    spec, generator, dtype = case.spec(), torch.Generator().manual_seed(0), dtype_of(case.dtype)
    tables = BlockTables(LENGTHS, case.block_size)
    with torch.inference_mode():
        # Layers that differ in scale alone share a step's metadata.
        layer = LayerUnderTest(backend, spec, tables.blocks, {replace(spec, scale=2 * spec.scale)})
        truth = LayerUnderTest(_backend(reference, case, torch.device("cpu")), spec, tables.blocks)
    _check_size(layer, tables.blocks, text)
    if spec.causal:
        with torch.inference_mode():
            layer.poison(tables.blocks)
    for number, entries in enumerate(SCHEDULE if spec.causal else WHOLE):
        if spec.causal and number == SHARED[0]:
            tables.share(SHARED[1], SHARED[2], SHARED[3] // case.block_size)
        # Block tables are as wide as the longest request may become, not as this step needs.
        step = tables.step({request: [0] * count for request, count in entries}, torch.device("cpu"), (spec,), 3)
        inputs = draw_inputs(spec, len(step.tokens), dtype, generator)
        given = inputs.to(device)
        with torch.inference_mode():
            expected = truth.run(step, inputs)
            found = layer.run(_move_step(step, device), given)
        assert found.dtype == dtype, f"{text}: the result is {found.dtype}"
        for name, before in vars(inputs).items():
            assert before is None or torch.equal(before, getattr(given, name).cpu()), f"{text}: {name} is changed"
        assert_close(found, expected, tolerance(dtype), f"{text}: step {number} of mixed batches")


def _move_step(step: Step, device: torch.device) -> Step:
    tensors: dict[str, Any] = {
        name: value.to(device) for name, value in vars(step).items() if isinstance(value, Tensor)
    }
    kv = tuple(KVIndex(index.block_tables.to(device), index.slot_mapping.to(device)) for index in step.kv)
    return replace(step, kv=kv, **tensors)


def _check_size(layer: LayerUnderTest, blocks: int, text: str) -> None:
    """A cache must not be larger than ``block_bytes`` says, because memory is planned with it."""
    backend, cache = layer.backend, layer.cache
    tensors = [cache] if isinstance(cache, Tensor) else list(cache) if isinstance(cache, tuple | list) else []
    held = sum(t.nbytes for t in tensors if isinstance(t, Tensor))
    planned = blocks * backend.block_bytes(layer.writer)
    assert held <= planned, f"{text}: a cache of {blocks} blocks holds {held} bytes, block_bytes() says {planned}"
    if layer.spec.shared_cache:
        planned = backend.block_bytes(layer.spec)
        assert planned == 0, f"{text}: it has no cache of its own, block_bytes() says {planned}"


def _resolve(card: AttentionCard, **changes: Any) -> None:
    """Resolve attention for a claim of the card, with the given changes."""
    device = next(iter(card.devices))
    features, (head_dim, value_dim) = _simplest(card)
    expected: dict[str, Any] = {
        "features": features,
        "head_dim": head_dim,
        "value_dim": value_dim,
        "dtype": card.dtypes[0],
        "block_size": (card.block_sizes or BLOCK_SIZES)[-1],
        "device": "cpu" if device == "*" else device,
        **changes,
    }
    needs = AttentionRequirement(
        features=frozenset(expected["features"]), head_dim=expected["head_dim"], value_dim=expected["value_dim"]
    )
    kv_dtype = expected.get("kv_dtype", expected["dtype"])
    options = PlanOptions(block_size=expected["block_size"])
    find_attention(options, (needs,), expected["device"], expected["dtype"], kv_dtype, make_registry(card), [])


def _simplest(card: AttentionCard) -> tuple[tuple[AttentionFeature, ...], tuple[int, int]]:
    """What asks the least of what a card claims: features, and sizes of keys and of values."""
    for features in ((), *((feature,) for feature in card.features)):
        if sizes := head_sizes(card, features):
            return features, sizes[0]
    raise AssertionError(f"{label(card)} has no features that need the sizes in its head_dims")


def check_attention_refusals(card: AttentionCard) -> None:
    """Check that resolution selects the card for what it claims, and refuses it with the reason for everything else."""
    refused = partial(_check_refused, card)
    _, (head_dim, _) = _simplest(card)
    for feature in set(get_args(AttentionFeature)) - set(card.features):
        value = head_dim // 2 if feature in ("value_dim", "latent") else head_dim
        refused(f"the feature {feature}", feature, features=(feature,), value_dim=value)
    for together in card.exclusive:
        size = head_sizes(card, together)[0]
        refused(
            f"the features {' and '.join(together)} together",
            " and ".join(together),
            features=together,
            head_dim=size[0],
            value_dim=size[1],
        )
    for dtype in set(DTYPES) - set(card.dtypes):
        refused(f"the dtype {dtype}", dtype, dtype=dtype)
    if "*" not in card.devices:
        refused("the device nowhere", "nowhere", device="nowhere")
    if card.head_dims is not None:
        larger = 1 + max(size if isinstance(size, int) else max(size) for size in card.head_dims)
        refused(f"the head size {larger}", str(larger), features=(), head_dim=larger, value_dim=larger)
    if card.block_sizes is not None:
        larger = max(card.block_sizes) + 1
        refused(f"the block size {larger}", str(larger), block_size=larger)
    refused("the cache's dtype int4", "int4", kv_dtype="int4")
    objection = refusal_message(partial(_resolve, card), ResolutionError)
    # A probe's objection is this machine's, not the card's.
    assert objection is None or card.probe, f"{label(card)} claims what resolution refuses: {objection}"


def _check_refused(card: AttentionCard, what: str, told: str, **changes: Any) -> None:
    assert_refused(lambda: _resolve(card, **changes), f"{label(card)} does not claim {what}", told)
