"""Rotary position embeddings as configurations describe them: one class for the parameters, and a reader of every form
that published files have.

Sources: Su et al. 2021 (RoPE); position interpolation, Chen et al. 2023 (``linear``); NTK-aware scaling (``dynamic``);
Peng et al. 2023 (``yarn``); bands of wavelengths that are stretched or kept (``llama3``); Ding et al. 2024
(``longrope``). :class:`dovetail.nn.Rotary` computes them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import ConfigDict, Field, ValidationError, model_validator

from dovetail.api.bounds import MAX_HEAD_DIM, MAX_POSITIONS, HeadDim, Positions, integral
from dovetail.api.documented import DocumentedModel
from dovetail.api.text import join_names, quote_foreign

LayerType = Literal["full_attention", "sliding_attention", "chunked_attention", "linear_attention"]
"""What a layer of a decoder does with the tokens before: all of them; a window of them; those of its chunk; a state that
sums them up.
"""
LAYER_TYPES: tuple[LayerType, ...] = get_args(LayerType)

RopeType = Literal["default", "linear", "dynamic", "yarn", "llama3", "longrope"]
ROPE_TYPES: tuple[RopeType, ...] = get_args(RopeType)

FACTOR_SCALINGS = ("linear", "dynamic", "yarn")
"""Values of ``rope_type`` whose ``factor`` is the factor of the context length. The factor of ``llama3`` is larger
than what its models were trained for.
"""

MAX_NUMBER = 2.0**27
"""The largest of these numbers: with it, no product of two of them leaves the range of float32."""
MAX_THETA = 1e15

Theta = Annotated[float, Field(gt=1, le=MAX_THETA)]
Number = Annotated[float, Field(gt=0, le=MAX_NUMBER)]
Part = Annotated[float, Field(gt=0, le=1)]
Divisors = Annotated[tuple[Number, ...], Field(strict=False, max_length=MAX_HEAD_DIM // 2)]
Sections = Annotated[tuple[HeadDim, ...], Field(strict=False, max_length=16)]

REQUIRED: dict[RopeType, tuple[str, ...]] = {
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}
"""Value of ``rope_type`` → the parameters that it cannot do without."""


class RopeParameters(DocumentedModel):
    """One rotary embedding. The names are those of ``rope_parameters`` in Hugging Face configurations."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    rope_type: RopeType = "default"
    """``default`` (no scaling), ``linear``, ``dynamic``, ``yarn``, ``llama3`` or ``longrope``."""
    rope_theta: Theta = 10000.0
    """The base of the wavelengths."""
    factor: Number | None = None
    """By how much the context is longer than the one trained for."""
    original_max_position_embeddings: Positions | None = None
    """The length, in tokens, that was trained for before the scaling; None for ``max_position_embeddings``."""
    low_freq_factor: Number | None = None
    """``llama3``: frequencies of fewer turns over the original length are divided by the factor."""
    high_freq_factor: Number | None = None
    """``llama3``: frequencies of more turns are kept. It may equal ``low_freq_factor``."""
    attention_factor: Number | None = None
    """``yarn``, ``longrope``: the factor on cos and sin; None for the one that follows from ``factor``."""
    beta_fast: Number | None = None
    """``yarn``: turns above which frequencies are kept (32 if None)."""
    beta_slow: Number | None = None
    """``yarn``: turns below which they are divided by the factor (1 if None)."""
    extrapolation_factor: Number | None = None
    """``yarn``: how much of the kept frequencies is kept (1 if None)."""
    mscale: Number | None = None
    """``yarn``: with ``mscale_all_dim``, another rule for the factor on cos and sin."""
    mscale_all_dim: Number | None = None
    """``yarn``: see ``mscale``."""
    truncate: bool = True
    """``yarn``: whether the bounds between kept and divided frequencies are whole channels."""
    long_factor: Divisors | None = None
    """``longrope``: a divisor for each frequency, for contexts past the original length. Without both lists, the
    checkpoint holds the divisors.
    """
    short_factor: Divisors | None = None
    """``longrope``: the same for contexts within the original length."""
    long_mscale: Number | None = None
    """``longrope``: the factor on cos and sin for contexts past the original length; None for ``attention_factor``."""
    short_mscale: Number | None = None
    """``longrope``: the same for contexts within the original length."""
    partial_rotary_factor: Part = 1.0
    """The part of a head's channels that is rotated."""
    sections: Sections = ()
    """``mrope_section``: how the frequencies are divided among the axes of images. Tokens of a text have the same
    position on all axes, for which this changes nothing.
    """

    @model_validator(mode="after")
    def _check_type(self) -> RopeParameters:
        kind = self.rope_type
        if lacking := [key for key in REQUIRED.get(kind, ()) if getattr(self, key) is None]:
            raise ValueError(f"the type {kind!r} lacks {', '.join(lacking)}")
        if kind == "default" and self.factor not in (None, 1.0):
            raise ValueError(f"it has the factor {self.factor} and names no rope_type")
        if kind == "llama3" and (self.low_freq_factor or 0) > (self.high_freq_factor or 0):
            raise ValueError("low_freq_factor is above high_freq_factor")
        if (self.long_factor is None) != (self.short_factor is None):
            raise ValueError("of long_factor and short_factor there is only one")
        return self


def scaled_length(max_position: int, rope: RopeParameters) -> int:
    """The longest sequence, in tokens, that a RoPE scaling was made for: its factor times the original length.

    Args:
        max_position: ``max_position_embeddings``. It is the original length if the scaling has no
            ``original_max_position_embeddings``. Some files have the length before scaling there and some the length
            after, and no key says which.
        rope: the rotary embedding.
    """
    if rope.rope_type not in FACTOR_SCALINGS:
        return max_position
    original = rope.original_max_position_embeddings or max_position
    return min(max(max_position, int(original * (rope.factor or 1))), MAX_POSITIONS)


# Reading

SLIDING = "sliding_attention"
OBJECTS = ("rope_parameters", "rope_scaling")
THETAS = ("rope_theta", "global_rope_theta", "rotary_emb_base")
LOCAL_THETAS = ("rope_local_base_freq", "local_rope_theta")
"""Bases of layers with a window, which are then not scaled."""
PARTS = ("partial_rotary_factor", "rotary_pct", "rope_pct")
LENGTH = "original_max_position_embeddings"
ROPE_KEYS = (*OBJECTS, *THETAS, *LOCAL_THETAS, *PARTS, "rotary_dim", LENGTH)
"""Every key of ``config.json`` that :func:`read_rope` reads, besides ``head_dim``."""

PARAMETERS = {
    "mrope_section" if name == "sections" else name: name for name in RopeParameters.model_fields if name != "rope_type"
}
"""Key of a file's object → parameter. The type has two keys."""
OTHER_TYPES = {"su": "longrope", "mrope": "default"}
"""Names of types in older configurations."""
UNSCALED = ("rope_theta", "partial_rotary_factor", "sections")
"""Parameters of ``rope_parameters`` that hold beside a ``rope_scaling``."""
NUMBER = f"a number above 0 and at most {MAX_NUMBER:.0f}"
DIVISORS = f"a list with {NUMBER} for each pair of channels"
WANTED = {
    "rope_theta": f"a number above 1 and at most {MAX_THETA:.0e}",
    "original_max_position_embeddings": f"a whole number above 0 and at most {MAX_POSITIONS}",
    "partial_rotary_factor": "a number above 0 and at most 1",
    "truncate": "true or false",
    "long_factor": DIVISORS,
    "short_factor": DIVISORS,
    "sections": "a list of whole numbers above 0",
}

_Found = dict[str, tuple[Any, str]]
"""Parameter → its value, and how the file calls it."""


@dataclass(frozen=True)
class _Object:
    """An object that describes one rotary embedding, and what messages call it."""

    where: str
    values: dict[str, Any]

    def read(self) -> _Found:
        """Its parameters, without nulls and what is none.

        Raises:
            ValueError: its type is unknown.
        """
        given = {key: value for key, value in self.values.items() if value is not None}
        found = {name: (given[key], f"{self.where}'s {key}") for key, name in PARAMETERS.items() if key in given}
        name = given.get("rope_type", given.get("type"))
        if name is None:
            return found
        if name == "mrope" and "sections" not in found:
            raise ValueError(f"{self.where}: the type 'mrope' lacks mrope_section")
        kind = OTHER_TYPES.get(name, name) if isinstance(name, str) else name
        if kind not in ROPE_TYPES:
            raise ValueError(
                f"{self.where}'s rope_type is {quote_foreign(name)}, wanted one of {', '.join(ROPE_TYPES)}"
            )
        return found | {"rope_type": (kind, f"{self.where}'s rope_type")}


def read_rope(
    data: Mapping[str, Any], layer_types: Iterable[str] = (), defaults: Mapping[str, Any] | None = None
) -> dict[str, RopeParameters]:
    """The rotary embeddings of a model, by layer type, from any of their forms in ``config.json``.

    These forms are understood, also together:

    - ``rope_parameters`` or ``rope_scaling``, flat or an object for each layer type. Where there are both, the second
      replaces the scaling of the first, and not its base. What is flat in it does not apply to layers with a window
      that have parameters of their own.

    - ``rope_theta`` (``global_rope_theta``, ``rotary_emb_base``) beside them, and ``rope_local_base_freq``
      (``local_rope_theta``) for layers with a window, which are then not scaled.

    - ``partial_rotary_factor`` (``rotary_pct``, ``rope_pct``) or ``rotary_dim``, which needs ``head_dim``.

    - ``original_max_position_embeddings`` inside or beside them.

    - ``type`` for ``rope_type``, ``su`` for ``longrope``, and ``mrope`` for ``default`` with sections.

    What is inside an object wins over what is beside it; but ``original_max_position_embeddings`` beside a flat one wins.

    Args:
        data: the configuration.
        layer_types: of the layers. What the file says of other types is left out. Empty to read all that it says.
        defaults: what the model assumes where the file is silent, in the form of ``rope_parameters``.

    Returns:
        Layer type → parameters. The key ``""`` is for all types that are not a key. ``linear_attention`` needs none.

    Raises:
        ValueError: a value is not supported, or nothing is said of a layer type while something is of others.
    """
    own, scalings = (_by_layer_type(data.get(key), key) for key in OBJECTS)
    given = {*own, *scalings}
    usual = _by_layer_type(defaults, "rope_defaults")
    beside, local = _beside(data), _first(data, LOCAL_THETAS, "rope_theta")
    apart = {*own, *scalings, *usual} - {""} | ({SLIDING} if local else set())
    windows_apart = bool(local) or SLIDING in own or SLIDING in usual

    def read(kind: str) -> RopeParameters:
        common = dict(beside)
        windowed = kind == SLIDING and windows_apart
        if windowed and (local or SLIDING in usual):
            common.pop("rope_theta", None)  # which is that of the other layers
            common |= local
        model = usual.get(kind) or usual.get("")
        parameters, scaling = (source.get(kind) or (None if windowed else source.get("")) for source in (own, scalings))
        found = parameters.read() if parameters else {}
        if scaling:
            found = {key: value for key, value in found.items() if key in UNSCALED} | scaling.read()
        found = (model.read() if model else {}) | common | found
        if LENGTH in common and kind not in apart:
            found[LENGTH] = common[LENGTH]
        scales = "rope_type" in found and found["rope_type"][0] != "default"
        if not scales and found.get(LENGTH) == common.get(LENGTH):
            found.pop(LENGTH, None)  # it is of no scaling
        origin = scaling or parameters or model
        return _build(found, origin.where if origin else "the rotary embedding")

    kinds = [kind for kind in dict.fromkeys(layer_types) if kind != "linear_attention"]
    if not kinds:
        kinds = [*sorted(apart), *([""] if not given or "" in given else [])]
    out: dict[str, RopeParameters] = {}
    for kind in kinds:
        if kind in apart:
            out[kind] = read(kind)
        elif given and "" not in given:
            objects = " and ".join(key for key, source in zip(OBJECTS, (own, scalings), strict=True) if source)
            raise ValueError(
                f"{objects} has {join_names(sorted(given))}, and nothing for the layers of the type {quote_foreign(kind)}"
            )
        elif "" not in out:
            out[""] = read("")
    return out


def _by_layer_type(value: Any, key: str) -> dict[str, _Object]:
    """Layer type → its object. The key ``""`` has the values that stand in no object of a type."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ValueError(f"{key} is {quote_foreign(value)}, wanted an object")
    out: dict[str, _Object] = {}
    flat: dict[str, Any] = {}
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            out[name] = _Object(f"{key}' {name}", dict(inner))
        elif name in LAYER_TYPES:
            raise ValueError(f"{key}' {name} is {quote_foreign(inner)}, wanted an object")
        elif inner is not None:
            flat[name] = inner
    return out | ({"": _Object(key, flat)} if flat else {})


def _first(data: Mapping[str, Any], keys: Iterable[str], parameter: str) -> _Found:
    """A parameter under the first of these keys that is there."""
    key = next((key for key in keys if data.get(key) is not None), None)
    return {} if key is None else {parameter: (data[key], key)}


def _beside(data: Mapping[str, Any]) -> _Found:
    """The parameters that stand beside the objects, at the top of the file."""
    part = _first(data, PARTS, "partial_rotary_factor") or _rotary_part(data)
    return _first(data, THETAS, "rope_theta") | part | _first(data, (LENGTH,), LENGTH)


def _rotary_part(data: Mapping[str, Any]) -> _Found:
    channels, head_dim = integral(data.get("rotary_dim")), integral(data.get("head_dim"))
    if channels is None:
        return {}
    if type(head_dim) is not int or not 0 < head_dim <= MAX_HEAD_DIM:
        raise ValueError(f"rotary_dim is a part of head_dim, which is {quote_foreign(head_dim)}")
    if type(channels) is not int or not 0 < channels <= head_dim:
        raise ValueError(
            f"rotary_dim is {quote_foreign(channels)}, wanted a whole number above 0 and at most the head_dim {head_dim}"
        )
    part = channels / head_dim
    # The quotient may be rounded down, and its product would then lack a channel.
    return {
        "partial_rotary_factor": (part if int(part * head_dim) == channels else math.nextafter(part, 1), "rotary_dim")
    }


def _build(found: _Found, where: str) -> RopeParameters:
    values = {key: integral(value) for key, (value, _) in found.items()}
    try:
        return RopeParameters.model_validate(values)
    except ValidationError as error:
        fault = error.errors()[0]
    if not fault["loc"]:  # about several parameters, which the text names
        raise ValueError(f"{where}: {fault['msg'].removeprefix('Value error, ')}")
    key = str(fault["loc"][0])
    value, name = found[key]
    raise ValueError(f"{name} is {quote_foreign(value)}, wanted {WANTED.get(key, NUMBER)}")
