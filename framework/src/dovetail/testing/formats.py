"""Conformance tests of quantization formats.

Letters: N rows, K columns.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dovetail.api import Checkpoint, CheckpointError, LazyTensor, QuantFormatCard
from dovetail.api.text import join_names
from dovetail.kernel.discovery import import_dotted
from dovetail.kernel.options import PlanOptions
from dovetail.kernel.weights import find_weights
from dovetail.nn import Components, QuantFormat, StoredWeight, WeightName
from dovetail.nn.checked_parts import check_components, check_loaded, check_shape
from dovetail.nn.stored import SIDES
from dovetail.testing.comparison import assert_close, dtype_of, label, tolerance
from dovetail.testing.packings import UNPACK
from dovetail.testing.resolution import assert_refused, claim, make_registry, part_of, refusal_message

CPU = torch.device("cpu")
NAME = "model.layers.0.mlp.down_proj"
MOST_CUTS = 12
"""Cuts tried on each side of a weight."""


@dataclass(frozen=True)
class WeightSample:
    """One weight as a checkpoint stores it, and its matrix.

    Attributes:
        tensors: by component (``.weight``), as the loader would yield them, the first required one first.
        dense: the matrix ``[N, K]``, float32, from another source than the format itself.
        config: the checkpoint's ``quantization_config``.
        input_scale: the scale of activations that is stored with it.
        packings: that this weight can be converted to; None for all that the card lists for its type.
    """

    tensors: Mapping[str, LazyTensor]
    dense: Tensor
    config: Mapping[str, Any] = field(default_factory=dict)
    input_scale: Tensor | None = None
    packings: Sequence[str] | None = None

    @property
    def type(self) -> str:
        return next(iter(self.tensors.values())).type


def check_format(
    card: QuantFormatCard,
    samples: Sequence[WeightSample],
    *,
    unpack: Mapping[str, Callable[[Any], Tensor]] | None = None,
    limit: float = 1e-6,
) -> None:
    """Check every claim of a format's card.

    For each claimed type: its components and its shape without reading, its dequantization against the sample's, that
    its fields are all of its tensors and are cut where they say, and that slices, gathered, reordered, joined and cut
    weights all equal those of the whole; that the weight and parts of it convert to each claimed packing with the same
    matrix and the scale of activations; that tensors which contradict their description are refused by name, and so
    are tensors beside the first one that are of another type, or of floats of which one is infinite or not a number.
    Then it checks that resolution refuses types that are not claimed.

    Args:
        samples: at least one for each claimed type; small, with an unusual number of rows, such as 37, and a few groups
            in each row.
        unpack: for packings besides :data:`UNPACK`: packing → its matrix.
        limit: on the relative error of the dequantization in float32.

    Raises:
        AssertionError: names the claim that failed.
    """
    known = UNPACK | dict(unpack or {})
    lacking = sorted(set(card.types) - {s.type for s in samples})
    assert not lacking, f"{label(card)} claims the types {', '.join(lacking)}, for which no sample is given"
    for sample in samples:
        text = f"{label(card)} claims the type {sample.type}"
        assert sample.type in card.types, f"{label(card)}: a sample of type {sample.type}, which is not claimed"
        with claim(text):
            weight = _load(card, sample, text)
            _check_fields(weight, text)
            _check_values(weight, sample, limit, text)
            for dim in (0, 1):
                _check_cuts(weight, dim, text)
                _check_order(weight, dim, text)
            _check_rows(weight, text)
            _check_moves(weight, text)
            _check_packings(card, weight, sample, known, limit, text)
            _check_optional(card, sample, text)
            _check_damage(card, sample, text)
    for one in samples:
        for other in samples:
            if one is not other and one.dense.shape[1] == other.dense.shape[1]:
                both = f"{label(card)}: joining {one.type} and {other.type}"
                with claim(both):
                    _check_join([_load(card, one, label(card)), _load(card, other, label(card))], both)
    missing = "no_such_type"
    assert_refused(partial(_resolve, card, samples[0], missing), f"{label(card)} does not claim {missing}", missing)


def _weight_name(card: QuantFormatCard) -> WeightName:
    return WeightName(NAME, "linear" if "linear" in card.kinds else card.kinds[0])


def _reader(card: QuantFormatCard, sample: WeightSample) -> QuantFormat:
    config: Any = sample.config
    if card.config is not None:
        config = import_dotted(card.config).model_validate(dict(sample.config))
    found: QuantFormat = import_dotted(card.target)(config)
    return found


def _load(card: QuantFormatCard, sample: WeightSample, text: str) -> StoredWeight:
    reader, name = _reader(card, sample), _weight_name(card)
    components = check_components(part_of(card), name, reader.components(name))
    assert components is not None, f"{text}: components() leaves out {name.name}"
    assert components.required, f"{text}: components() requires nothing"
    suffixes = (*components.required, *components.optional)
    assert len(set(suffixes)) == len(suffixes), f"{text}: components() names a component twice"
    lacking = set(components.required) - set(sample.tensors)
    assert not lacking, f"{text}: the sample lacks {', '.join(sorted(lacking))}"
    unknown = set(sample.tensors) - set(suffixes)
    assert not unknown, f"{text}: components() does not name {', '.join(sorted(unknown))}"
    first = components.required[0]
    found = sample.tensors[first].type
    assert found == sample.type, f"{text}: the first required component is {first}, whose type is {found}"
    tensors = {suffix: sample.tensors[suffix] for suffix in suffixes if suffix in sample.tensors}
    names = join_names([lazy.name for lazy in tensors.values()])
    shape, announced = tuple(sample.dense.shape), check_shape(part_of(card), names, reader.shape(name, tensors))
    assert announced == shape, f"{text}: shape() is {announced}, wanted {shape}"
    weight = check_loaded(part_of(card), names, reader.load(name, tensors, CPU, torch.float32))
    assert tuple(weight.shape) == shape, f"{text}: the weight is {weight.shape}, wanted {shape}"
    assert weight.type == sample.type, f"{text}: the weight's type is {weight.type!r}"
    assert weight.nbytes > 0, f"{text}: nbytes is {weight.nbytes}"
    return weight


def _check_fields(weight: StoredWeight, text: str) -> None:
    """Fields are all tensors of the weight, and as long as their axes say."""
    assert dataclasses.is_dataclass(weight), f"{text}: {type(weight).__name__} is no dataclass"
    fields = weight.all_fields()
    attributes = {f.name: getattr(weight, f.name) for f in dataclasses.fields(weight)}
    extra = sorted(name for name, value in vars(weight).items() if _tensors(value) and name not in attributes)
    assert not extra, f"{text}: {', '.join(extra)} is no field of the dataclass {type(weight).__name__}"
    for name, part in fields.items():
        assert attributes.get(name) is part.data, f"{text}: fields() names {name}, which is another attribute's tensor"
        for dim in (0, 1):
            if (axis := part.axis(dim)) is None:
                continue
            assert axis.dim < part.data.dim(), f"{text}: fields(): {name} has no dimension {axis.dim}"
            found, wanted = part.data.shape[axis.dim], axis.length(weight.shape[dim])
            assert found == wanted, (
                f"{text}: fields(): {name} is {list(part.data.shape)}, but {weight.shape[dim]} {SIDES[dim]} with {axis} "
                f"make {wanted}"
            )
    forgotten = [name for name, value in attributes.items() if _tensors(value) and name not in fields]
    assert not forgotten, f"{text}: fields() does not name {', '.join(forgotten)}"


def _tensors(value: Any) -> bool:
    """Whether an attribute is a tensor, or holds some."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return any(_tensors(getattr(value, f.name)) for f in dataclasses.fields(value))
    if isinstance(value, (list, tuple, dict)):
        return any(map(_tensors, value.values() if isinstance(value, dict) else value))
    return isinstance(value, Tensor)


def _check_values(weight: StoredWeight, sample: WeightSample, limit: float, text: str) -> None:
    dense = weight.dense(torch.float32)
    assert dense.dtype == torch.float32, f"{text}: asked for float32, dequantize() gives {dense.dtype}"
    assert_close(dense.flatten(), sample.dense.float().flatten(), limit, f"{text}: its dequantization")
    for name in ("bfloat16", "float16"):
        dtype = dtype_of(name)
        rounded = weight.dense(dtype)
        assert rounded.dtype == dtype, f"{text}: asked for {name}, dequantize() gives {rounded.dtype}"
        assert_close(rounded.flatten(), dense.flatten(), tolerance(dtype), f"{text}: its dequantization in {name}")
    expected, found = sample.input_scale, weight.input_scale
    if expected is None:
        assert found is None, f"{text}: its input_scale is {found}, but the sample has none"
    else:
        assert found is not None, f"{text}: it has no input_scale, but the sample has one"
        assert found.dtype == torch.float32, f"{text}: its input_scale is {found.dtype}, wanted float32"
        assert torch.equal(found.flatten(), expected.flatten()), f"{text}: its input_scale is not the sample's"


def _check_rows(weight: StoredWeight, text: str) -> None:
    n = weight.shape[0]
    dense = weight.dense(torch.float32)
    for start, stop in {(0, 1), (n - 1, n), (0, n // 2), (n // 2, n), (n // 3, n - n // 3)}:
        rows = weight.rows(start, stop, torch.float32)
        assert torch.equal(rows, dense[start:stop]), f"{text}: rows({start}, {stop}) is not that slice of the whole"
    ids = torch.randint(n, (2 * n + 1,), generator=torch.Generator().manual_seed(0))
    for expected in (ids, ids[:1], ids[:0]):
        taken = weight.take(expected, torch.float32)
        assert torch.equal(taken, dense[expected]), f"{text}: take() does not give the rows that were asked for"


def _unit(weight: StoredWeight, dim: int) -> int:
    """Rows (columns) that can only be cut together."""
    axes = [part.axis(dim) for part in weight.all_fields().values()]
    return math.lcm(*(axis.unit for axis in axes if axis is not None))


def _check_order(weight: StoredWeight, dim: int, text: str) -> None:
    size, unit, side = weight.shape[dim], _unit(weight, dim), SIDES[dim]
    dense = weight.dense(torch.float32)
    generator = torch.Generator().manual_seed(1)
    # Whole units in any order, one of them twice; the last one, which may be incomplete, stays the last.
    units = torch.randperm(max(0, -(-size // unit) - 1), generator=generator)
    units = torch.cat((units, units[:1], torch.tensor([-(-size // unit) - 1])))
    order = (units[:, None] * unit + torch.arange(unit)).flatten()
    order = order[order < size]
    with claim(f"{text}: {side} in another order, as fields() says"):
        moved = weight.reorder(order, dim)
    expected = dense.index_select(dim, order)
    assert tuple(moved.shape) == tuple(expected.shape), f"{text}: reorder() of {side} gives {moved.shape}"
    assert torch.equal(moved.dense(torch.float32), expected), (
        f"{text}: reorder() of {side} is not in the order asked for"
    )
    assert torch.equal(weight.dense(torch.float32), dense), f"{text}: reorder() changes the weight itself"
    if unit > 1 and size > 1:
        turned = torch.arange(size).flip(0)
        refused = refusal_message(lambda: weight.reorder(turned, dim), CheckpointError)
        assert refused is not None, f"{text}: {side} in groups of {unit} are turned round, and nothing is raised"
        assert "stored together" in refused, f"{text}: reorder() is refused without the reason: {refused}"


def _check_cuts(weight: StoredWeight, dim: int, text: str) -> None:
    size, unit, side = weight.shape[dim], _unit(weight, dim), SIDES[dim]
    dense = weight.dense(torch.float32)
    bounds = [*range(0, size, unit), size]
    if len(bounds) > MOST_CUTS:
        step = (len(bounds) - 1) / (MOST_CUTS - 1)
        bounds = [bounds[round(i * step)] for i in range(MOST_CUTS)]
    ranges = [(0, b) for b in bounds[1:]] + [(b, size) for b in bounds[:-1]] + list(itertools.pairwise(bounds))
    for start, stop in dict.fromkeys(ranges):
        where = f"{text}: {side} {start} to {stop}, cut as fields() says"
        expected = dense.narrow(dim, start, stop - start)
        with claim(where):
            part = weight.narrow(dim, start, stop)
            found = part.dense(torch.float32)
        assert tuple(part.shape) == tuple(expected.shape), f"{where}, have the shape {part.shape}"
        assert torch.equal(found, expected), f"{where}, are not those of the whole"
        _check_fields(part, where)
    if unit > 1:
        for start, stop in ((0, 1), (1, size), (0, unit // 2), (0, unit + 1), (unit - 1, size)):
            if start >= stop or stop > size or (start % unit == 0 and (stop % unit == 0 or stop == size)):
                continue
            refused = refusal_message(partial(weight.narrow, dim, start, stop), CheckpointError)
            assert refused is not None, f"{text}: {side} {start} to {stop} are cut within a group of {unit}"
            assert "stored together" in refused, f"{text}: a cut is refused without the reason: {refused}"
    compact = [weight.narrow(dim, a, b).compact() for a, b in itertools.pairwise(bounds)]
    for part in compact:
        for name, one in part.all_fields().items():
            held = one.data.untyped_storage().nbytes()
            assert held <= one.data.nbytes, f"{text}: {name}, after compact(), holds {held} bytes for {one.data.nbytes}"
    if dim == 0:
        joined = weight.join(compact)
        assert joined is not None, f"{text}: join() declines the parts of one weight"
        assert torch.equal(joined.dense(torch.float32), dense), f"{text}: join() does not give its parts back"
    else:
        whole = torch.cat([part.dense(torch.float32) for part in compact], 1)
        assert torch.equal(whole, dense), f"{text}: columns after compact() are not those of the whole"


def _check_moves(weight: StoredWeight, text: str) -> None:
    dense = weight.dense(torch.float32)
    assert torch.equal(weight.to(CPU).dense(torch.float32), dense), f"{text}: to() changes the weight"
    left = [n for n, f in weight.to(torch.device("meta")).all_fields().items() if f.data.device.type != "meta"]
    assert not left, f"{text}: to() leaves {', '.join(left)} where it is"
    _check_join([weight, weight.reorder(torch.arange(weight.shape[0])), weight], f"{text}: joining")


def _check_join(parts: Sequence[StoredWeight], text: str) -> None:
    joined = parts[0].join(parts)
    if joined is None:
        return
    expected = torch.cat([p.dense(torch.float32) for p in parts])
    assert tuple(joined.shape) == tuple(expected.shape), f"{text}: the result is {joined.shape}"
    assert torch.equal(joined.dense(torch.float32), expected), f"{text}: the rows are not those of the parts in order"


def _check_packings(
    card: QuantFormatCard,
    weight: StoredWeight,
    sample: WeightSample,
    known: Mapping[str, Callable[[Any], Tensor]],
    limit: float,
    text: str,
) -> None:
    listed = card.types[sample.type]
    wanted = listed if sample.packings is None else sample.packings
    unknown = sorted(set(wanted) - set(listed))
    assert not unknown, f"{text}: the sample has the packings {', '.join(unknown)}, which the card does not list"
    for packing in listed:
        claimed = f"{text} as {packing}"
        if packing not in wanted:
            assert weight.pack(packing) is None, f"{claimed}: pack() gives one, but the sample says that there is none"
            continue
        assert weight.pack(packing) is not None, f"{claimed}: pack() gives None"
        assert packing in known, f"{claimed}: the kit cannot read that packing; give unpack={{{packing!r}: …}}"
        for cut in (weight, _half(weight, 0), _half(weight, 1)):
            packed = cut.pack(packing)
            if packed is None:  # what a part cannot be converted to, it is multiplied without
                continue
            with claim(claimed):
                found = known[packing](packed)
            where = claimed if cut is weight else f"{claimed}, a part of {list(cut.shape)}"
            assert_close(found.flatten(), cut.dense(torch.float32).flatten(), limit, where)
            if hasattr(packed, "input_scale"):
                assert packed.input_scale is cut.input_scale, f"{where}: the packing lacks the input_scale"
    assert weight.pack("no-such-packing") is None, f"{text}: pack() hands out a packing that does not exist"


def _half(weight: StoredWeight, dim: int) -> StoredWeight:
    """What is left when the first units are cut off; the whole if there is one unit."""
    size, unit = weight.shape[dim], _unit(weight, dim)
    start = size // 2 // unit * unit
    return weight.narrow(dim, start, size)


def _check_optional(card: QuantFormatCard, sample: WeightSample, text: str) -> None:
    reader, name = _reader(card, sample), _weight_name(card)
    components = reader.components(name)
    assert components is not None
    for suffix in components.optional:
        rest = {other: lazy for other, lazy in sample.tensors.items() if other != suffix}
        with claim(f"{text}: without {suffix}, which components() calls optional"):
            reader.load(name, rest, CPU, torch.float32).dense(torch.float32)


def _check_damage(card: QuantFormatCard, sample: WeightSample, text: str) -> None:
    for component, tensor in sample.tensors.items():
        whole = tensor.read()
        damaged = replace(tensor, read=partial(_identity, whole[:-1] if whole.dim() else whole[None]))
        _check_refused(card, sample, component, damaged, f"{text}: a {component} with a row less than announced")
    # The first one's type chose the format, and its values are not looked at: there may be too many.
    first = _components(card, sample).required[0]
    for component in sample.tensors:
        if component != first:
            for what, damaged in _damages(sample.tensors[component]):
                _check_refused(card, sample, component, damaged, f"{text}: a {component} {what}")


def _components(card: QuantFormatCard, sample: WeightSample) -> Components:
    found = _reader(card, sample).components(_weight_name(card))
    assert found is not None
    return found


def _damages(tensor: LazyTensor) -> Iterator[tuple[str, LazyTensor]]:
    """What is wrong, and a tensor of the same shape in which it is."""
    value = tensor.read()
    floating = value.is_floating_point()
    dtypes = (torch.int32,) if floating else (torch.float32, torch.int32 if value.dtype == torch.int16 else torch.int16)
    for dtype in dtypes:
        name = str(dtype).removeprefix("torch.")
        other = replace(tensor, type=name, read=partial(_identity, value.float().to(dtype)))
        yield f"of type {name}", other
    if floating and value.numel():
        for number in (math.nan, math.inf):
            wide = value.float().reshape(-1).clone()
            wide[-1] = number
            broken = wide.to(value.dtype).view(value.shape)
            if not bool(broken.float().isfinite().all()):  # some types have no infinity
                yield f"in which a number is {number}", replace(tensor, read=partial(_identity, broken))


def _check_refused(card: QuantFormatCard, sample: WeightSample, component: str, damaged: LazyTensor, what: str) -> None:
    tensors = {**sample.tensors, component: damaged}
    load = partial(_reader(card, sample).load, _weight_name(card), tensors, CPU, torch.float32)
    with claim(what):
        refused = refusal_message(load, CheckpointError)
    assert refused is not None, f"{what} is not refused (see the arguments of dovetail.nn.read_tensor)"
    assert damaged.name in refused, f"{what} is refused without its name: {refused}"
    assert "\n" not in refused, f"{what} is refused in several lines: {refused}"


def _identity(value: Tensor) -> Tensor:
    return value


def _resolve(card: QuantFormatCard, sample: WeightSample, type_: str) -> None:
    checkpoint = Checkpoint(path="under-test", files=(), tensor_types={type_: 1})
    method = {"quant_method": card.methods[0]} if card.methods else {}
    config = {"quantization_config": {**sample.config, **method}}
    find_weights(checkpoint, config, PlanOptions(), "cpu", "float32", make_registry(card), [])
