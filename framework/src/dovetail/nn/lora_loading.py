"""Reads a LoRA adapter as PEFT saves it, and checks it against a model.

Its tensors are named ``base_model.model.<module>.lora_A.weight`` ``[r, K]`` and ``….lora_B.weight`` ``[N, r]``, by the
module's Hugging Face name, whatever the model's container. All mismatches are reported at once, before the first value
is read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from dovetail.api.checkpoint import LazyTensor
from dovetail.api.errors import RequestError
from dovetail.api.text import join_names, one_line, quote_foreign
from dovetail.nn.context import Context
from dovetail.nn.layers import Linear
from dovetail.nn.lora import AdapterWeights
from dovetail.nn.module_patterns import ModulePatterns

# The name of the adapter within its training run ("default") stands before the last component in some files.
MATRIX = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])(\.\w+)?\.weight")

UNSUPPORTED_KEYS = {
    "use_dora": "DoRA, which rescales the model's own weights",
    "modules_to_save": "whole modules that were trained beside the low-rank matrices",
    "lora_bias": "biases of its own",
    "trainable_token_indices": "trained rows of the embedding",
    "target_parameters": "adapters of plain parameters, such as stacked experts",
    "layer_replication": "layers that stand in the model several times",
    "alora_invocation_tokens": "activation by tokens of the prompt (aLoRA)",
    "use_qalora": "QALoRA's pooled inputs",
}
"""Keys of ``adapter_config.json`` for features beyond low-rank matrices on linear layers, and the feature of each."""

MOST_FAULTS = 8
"""Faults of the configuration's values that an error lists."""

WEIGHT_CHANGING_INITS = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initialisations that change the model's own weights. (PEFT writes true instead when it converts the result to plain LoRA.)"""

Rename = Callable[[str], str | None]
Rank = Annotated[int, Field(gt=0, le=2**16)]
Alpha = Annotated[float, Field(ge=-(2**31), le=2**31)]


class LoraConfig(BaseModel):
    """The keys of ``adapter_config.json`` that say how to scale the matrices."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)

    r: Rank = 8
    lora_alpha: Alpha = 8
    use_rslora: bool = False
    rank_pattern: dict[str, Rank] = {}
    alpha_pattern: dict[str, Alpha] = {}

    def scales(self, modules: Collection[str]) -> dict[str, Scale]:
        """The rank and the scale of every module.

        Raises:
            ValueError: a pattern cannot be run; see :class:`~dovetail.nn.module_patterns.ModulePatterns`.
        """
        ranks = ModulePatterns(self.rank_pattern).find(modules)
        alphas = ModulePatterns(self.alpha_pattern).find(modules)
        return {
            module: self._scale(ranks.get(module, self.r), alphas.get(module, self.lora_alpha)) for module in modules
        }

    def _scale(self, rank: int, alpha: float) -> Scale:
        """``alpha / r``, or ``alpha / sqrt(r)`` for a rank-stabilised adapter (Kalajdzievski, 2023)."""
        return Scale(rank, alpha / (math.sqrt(rank) if self.use_rslora else rank))


class Scale(NamedTuple):
    """What the configuration says of one module: its rank, and the factor of its product."""

    rank: int
    scale: float


@dataclass(frozen=True)
class LoraTargets:
    """The layers of a model that an adapter can change.

    Attributes:
        linear: name of each part of a linear layer → its (rows, columns).
        other: names of layers that do not support adapters.
        experts: names of experts, of what they are stored in, and of the modules that hold them.
        rank: the highest.
        dtype: of the activations.
        rename: the model's translation of names; see :meth:`dovetail.nn.PoolingModel.rename`.
    """

    linear: Mapping[str, tuple[int, int]]
    other: frozenset[str]
    experts: frozenset[str]
    rank: int
    dtype: torch.dtype
    rename: Rename | None = None

    @classmethod
    def of(cls, ctx: Context, rename: Rename | None = None) -> LoraTargets:
        """The targets of a model that was built with slots."""
        assert ctx.adapters is not None
        layers = {n: layer for n, layer in ctx.layers.items() if layer.kind == "linear" and isinstance(layer, Linear)}
        linear = {n: layer.parts[n] for n, layer in layers.items()}
        experts = {n for n, layer in ctx.layers.items() if layer.kind == "experts"}
        other = frozenset(ctx.layers.keys() - linear.keys() - experts)
        stacks = {n for n, stored in ctx.together.items() if experts.intersection(*stored.groups[:1])}
        modules = {n.rpartition(".")[0] for n in experts | stacks}
        return cls(linear, other, frozenset(experts | stacks | modules), ctx.adapters.rank, ctx.dtype, rename)

    def translate(self, module: str) -> str | None:
        """The model's name of a module of an adapter; None for one that the model leaves out."""
        if self.rename is None:
            return module
        found = self.rename(f"{module}.weight")  # names of tensors are what a model translates
        return None if found is None else found.removesuffix(".weight")


@dataclass
class LoraPair:
    """One module's two matrices, still in their file."""

    a: LazyTensor | None = None
    b: LazyTensor | None = None


def read_adapter(
    label: str, config: Mapping[str, Any], tensors: Iterable[LazyTensor], targets: LoraTargets
) -> AdapterWeights:
    """Read an adapter for a model.

    Args:
        label: the adapter's name in errors.
        config: its ``adapter_config.json``.
        targets: the model's.

    Raises:
        RequestError: it is not a LoRA adapter for this model, uses unsupported features, or is damaged; with every
            reason.
    """
    parsed, faults = _read_config(config)
    pairs, others = _sort(tensors)
    try:
        scales = parsed.scales(pairs)
    except ValueError as error:
        faults.append(str(error))
        scales = LoraConfig(r=parsed.r).scales(pairs)
    if others:
        faults.append(f"tensors that are no low-rank matrices: {join_names(others)}")
    if not pairs:
        faults.append("no tensor is named base_model.model.….lora_A.weight")
    # The configuration's patterns are for the adapter's own names; all that follows is for the model's.
    names = {module: name for module in pairs if (name := targets.translate(module)) is not None}
    if pairs and not names:
        faults.append("it only changes parts that the model leaves out")
    if len(names) != len(set(names.values())):
        faults.append(f"modules of which the model has fewer: {join_names(list(names))}")
    scales = {name: scales[module] for module, name in names.items()}
    pairs = {name: pairs[module] for module, name in names.items()}
    faults += _find_misplaced(pairs, targets) + _find_wrong_shapes(pairs, scales, targets)
    if not faults:
        weights = {module: _read_pair(pair, scales[module].scale, targets.dtype) for module, pair in pairs.items()}
        broken = [m for m, matrices in weights.items() if not all(matrix.isfinite().all() for matrix in matrices)]
        if not broken:
            return weights
        faults = [f"values that are infinite or not a number in {targets.dtype}: {join_names(broken)}"]
    raise RequestError(
        f"{label} cannot be used: {'; '.join(faults)}",
        "load an adapter that was trained on this model, with LoRA on its linear layers alone",
        param="lora_path",
    )


def _read_config(config: Mapping[str, Any]) -> tuple[LoraConfig, list[str]]:
    """The scale of the matrices, and every unsupported setting of the configuration."""
    faults = []
    kind = config.get("peft_type")
    if kind != "LORA":
        faults.append(f"adapter_config.json says peft_type {quote_foreign(kind)}, wanted 'LORA'")
    faults += [f"{key} asks for {what}" for key, what in UNSUPPORTED_KEYS.items() if config.get(key)]
    if (bias := config.get("bias", "none")) not in ("none", None):
        faults.append(f"bias is {quote_foreign(bias)}, wanted 'none': biases of the model are not replaced")
    begun = config.get("init_lora_weights")
    if isinstance(begun, str) and begun.lower().startswith(WEIGHT_CHANGING_INITS):
        faults.append(
            f"init_lora_weights is {quote_foreign(begun)}, which changed the model's own weights: convert it to plain LoRA"
        )
    try:
        # PEFT writes null for what was not set.
        parsed = LoraConfig.model_validate({k: v for k, v in config.items() if v is not None})
    except ValidationError as error:
        parsed = LoraConfig()
        faults += [
            f"{_quote_key(e['loc'])} is {quote_foreign(e['input'])}: {e['msg']}" for e in error.errors()[:MOST_FAULTS]
        ]
    return parsed, faults


def _sort(tensors: Iterable[LazyTensor]) -> tuple[dict[str, LoraPair], list[str]]:
    pairs: dict[str, LoraPair] = {}
    others = []
    for lazy in tensors:
        match = MATRIX.fullmatch(lazy.name)
        pair = pairs.setdefault(match["module"], LoraPair()) if match else None
        if match is None or pair is None:
            others.append(lazy.name)
        elif match["side"] == "A" and pair.a is None:
            pair.a = lazy
        elif match["side"] == "B" and pair.b is None:
            pair.b = lazy
        else:
            others.append(f"{lazy.name} (a second one for its module)")
    return pairs, others


def _find_misplaced(pairs: Mapping[str, LoraPair], targets: LoraTargets) -> list[str]:
    known = targets.linear.keys() | targets.other | targets.experts
    unknown = [module for module in pairs if module not in known]
    other = [module for module in pairs if module in targets.other]
    experts = [module for module in pairs if module in targets.experts]
    faults = []
    if unknown:
        faults.append(f"modules that the model does not have: {join_names(unknown)}")
    if other:
        faults.append(f"modules that take no adapter, being no linear layers: {join_names(other)}")
    if experts:
        faults.append(f"experts, which take no adapter: {join_names(experts)}")
    return faults


def _find_wrong_shapes(pairs: Mapping[str, LoraPair], scales: Mapping[str, Scale], targets: LoraTargets) -> list[str]:
    lone, wrong, high = [], [], []
    for module, pair in pairs.items():
        if pair.a is None or pair.b is None:
            present = pair.a or pair.b
            assert present is not None
            lone.append(present.name)
            continue
        rank = scales[module].rank
        if rank > targets.rank:
            high.append(f"{module} has {rank}")
        if module not in targets.linear:
            continue
        rows, columns = targets.linear[module]
        for lazy, shape in ((pair.a, (rank, columns)), (pair.b, (rows, rank))):
            if lazy.shape != shape:
                wrong.append(f"{lazy.name} is {list(lazy.shape)}, wanted {list(shape)}")
            elif not getattr(torch, lazy.type, torch.int8).is_floating_point:
                wrong.append(f"{lazy.name} is of type {lazy.type}, wanted a floating-point one")
    faults = []
    if lone:
        faults.append(f"tensors without their other half: {join_names(lone)}")
    if wrong:
        faults.append(f"tensors that contradict the model or adapter_config.json: {join_names(wrong)}")
    if high:
        faults.append(f"ranks above the --max-lora-rank of {targets.rank}: {join_names(high)}")
    return faults


def _read_pair(pair: LoraPair, scale: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    assert pair.a is not None
    assert pair.b is not None
    # Copies, so that nothing holds the file open; scaled before they are rounded to the activations' dtype.
    return pair.a.read().to("cpu", dtype, copy=True), (pair.b.read().float() * scale).to("cpu", dtype)


def _quote_key(place: Iterable[int | str]) -> str:
    """The place of a value in a configuration, whose keys may be anything."""
    return one_line(".".join(map(str, place)), 100)
