"""The Plan: everything that is decided before weights are read, with the reasons. It is frozen and serialisable.

The engine process and every worker get a Plan and import what it names; they never discover plugins again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dovetail.api.cards import Dotted, DType, Task
from dovetail.api.checkpoint import Checkpoint
from dovetail.api.config import AttentionRequirement, ModelConfig
from dovetail.api.grammar import GrammarKind
from dovetail.kernel.blame import blame
from dovetail.kernel.discovery import import_part
from dovetail.kernel.plan_parts import (
    ANY,
    Choice,
    FrozenModel,
    LogitsProcessorPlan,
    ParserPlan,
    PoolingPlan,
    RejectedCandidate,
    WeightPlan,
    recognise,
)
from dovetail.kernel.validation import validate_config

MANY = 8
"""How many rejected candidates of one role are shown."""


class Plan(FrozenModel):
    """The resolved parts of one model on one machine."""

    model: str
    """The model reference as the user gave it, or the name of the file that replaces it."""
    checkpoint: Checkpoint
    config: dict[str, Any]
    """The model's configuration after translation and overrides."""
    architecture: str
    tasks: tuple[Task, ...]
    tasks_reason: str = ""
    pooling: PoolingPlan | None = None
    """None if no task needs it."""
    config_class: Dotted
    naming: Dotted | None = None
    processor: Dotted | None = None
    """What prepares images for the model; None if it takes none."""
    dtype: DType
    kv_dtype: DType
    max_model_len: int
    source: Choice
    loader: Choice
    model_part: Choice
    platform: Choice
    attention: Choice
    attention_requirements: tuple[AttentionRequirement, ...]
    """What the backend was chosen for: the model's layers must not ask it for more."""
    weights: tuple[WeightPlan, ...]
    unread_types: dict[str, tuple[str, ...]] = {}
    """Stored type that none of the formats reads → installed ones that would, with another ``quantization_config``."""
    grammar: Choice | None = None
    """The grammar backend for structured output; None if none is installed."""
    grammar_validate: Dotted | None = None
    """The grammar card's ``validate_source``, which the API's process calls."""
    grammar_kinds: tuple[GrammarKind, ...] = ()
    """Kinds of grammar that it supports."""
    tool_parsers: tuple[ParserPlan, ...] = ()
    """Candidates for the tool parser, best first. The first one that recognises the chat template is used."""
    reasoning_parsers: tuple[ParserPlan, ...] = ()
    """The same of reasoning."""
    logits_processors: tuple[LogitsProcessorPlan, ...] = ()
    """What requests may have done to their logits."""
    proposer: Choice | None = None
    """The proposer; None without speculative decoding."""
    proposer_config_class: Dotted | None = None
    proposer_config: dict[str, Any] = {}
    """Its own options, already validated."""
    num_speculative_tokens: int = 0
    """Maximum length of its drafts."""
    draft: Plan | None = None
    """The Plan of its draft model, if it has one."""
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        """What ``dovetail plan`` prints. Without the chat template, which decides about parsers, their candidates."""
        return render(self)

    @property
    def computes_whole_prompts(self) -> bool:
        """Whether every token sees its whole prompt, which is computed in one step then, and of which no KV cache is
        kept.
        """
        return any("bidirectional" in requirement.features for requirement in self.attention_requirements)

    def choices(self) -> tuple[Choice, ...]:
        parts = (self.source, self.loader, self.model_part, self.platform, self.attention, self.grammar, self.proposer)
        return tuple(part for part in parts if part is not None)

    def build_quantization_config(self, weights: WeightPlan) -> Any:
        """The ``quantization_config`` as a format expects it. It was validated when the Plan was made."""
        given = self.config.get("quantization_config") or {}
        if weights.config is None:
            return given
        part = weights.format.part
        config_class = import_part(part, weights.config)
        with blame(part, f"to read the quantization_config with {config_class.__name__}"):
            return config_class.model_validate(given)

    def build_model_config(self) -> ModelConfig:
        """The configuration as the model's own class. It was validated when the Plan was made."""
        part = self.model_part.part
        found: ModelConfig = validate_config(
            import_part(part, self.config_class), self.config, self.checkpoint.config_file, part
        )
        return found


def render(plan: Plan, template: str | None = None, *, verbose: bool = False) -> str:
    """The plan as text.

    Args:
        template: the model's chat template, which decides about parsers. None for their candidates.
        verbose: with every candidate that was not selected, and its reason for each kind of layer.
    """
    lines = [
        f"model          {plan.model}",
        f"architecture   {plan.architecture}",
        f"tasks          {', '.join(plan.tasks)}: {plan.tasks_reason}",
        *_pooling_lines(plan),
        f"dtype          {plan.dtype}, KV cache {plan.kv_dtype}",
        f"context        {plan.max_model_len} tokens",
        "",
    ]
    for choice in plan.choices():
        lines += _choice_lines(choice, verbose)
    lines += _parser_lines("tool parser", plan.tool_parsers, template)
    lines += _parser_lines("reasoning", plan.reasoning_parsers, template)
    lines += _speculation_lines(plan, verbose)
    lines += _weight_lines(plan, verbose)
    return "\n".join(lines)


def _pooling_lines(plan: Plan) -> list[str]:
    if (pooling := plan.pooling) is None:
        return []
    length = "normalised" if pooling.normalize else "not normalised"
    lines = [f"pooling        {pooling.type}, {length}: {pooling.reason}"]
    if pooling.prompts:
        names = (f"{name} (default)" if name == pooling.default_prompt else name for name in pooling.prompts)
        lines.append(f"prompts        {', '.join(names)}")
    return lines


def _parser_lines(role: str, candidates: tuple[ParserPlan, ...], template: str | None) -> list[str]:
    if not candidates:
        return [f"{role:<14} none"]
    names = ", ".join(candidate.part.name for candidate in candidates)
    if template is None and candidates[0].recognises != ANY:
        return [f"{role:<14} the first that knows the chat template's notation: {names}"]
    found = recognise(candidates, template or "")
    if found is None:
        return [f"{role:<14} none: the chat template shows no notation of {names}"]
    why = (
        "asked for by name" if candidates[0].recognises == ANY else "the first that knows the chat template's notation"
    )
    return [f"{role:<14} {found.part.name} ({found.part.distribution} {found.part.version}): {why}"]


def _speculation_lines(plan: Plan, verbose: bool) -> list[str]:
    if plan.proposer is None:
        return []
    options = ", ".join(f"{name} {value}" for name, value in plan.proposer_config.items() if value is not None)
    lines = [f"{'':<14}   up to {plan.num_speculative_tokens} tokens at a time; {options}".rstrip("; ")]
    if plan.draft is not None:
        lines += [
            "",
            "draft model",
            *(f"  {line}".rstrip() for line in render(plan.draft, verbose=verbose).splitlines()),
        ]
    return lines


def _choice_lines(choice: Choice, verbose: bool) -> list[str]:
    part = choice.part
    lines = [f"{choice.role:<14} {part.name} ({part.distribution} {part.version}): {choice.reason}"]
    shown = choice.rejected if verbose else choice.rejected[:MANY]
    lines += [f"{'':<14}   not {r.name} ({r.distribution}): {r.reason}" for r in shown]
    if more := len(choice.rejected) - len(shown):
        lines.append(f"{'':<14}   and not {more} more, which --verbose lists")
    return lines


def _weight_lines(plan: Plan, verbose: bool) -> list[str]:
    """Of each stored type what can read and multiply weights of it. How many of its tensors are weights, and of which
    kinds of layers, is known when the model is built; until then, no tensor is counted as a weight.
    """
    lines = [
        "",
        "weights        what may read and multiply them, by type of tensor; which tensors are weights, and of which layers, dovetail plan "
        "--weights tells",
    ]
    quantized = bool(plan.config.get("quantization_config"))
    unread: list[str] = []
    beside: list[str] = []
    for type_, count in plan.checkpoint.tensor_types.items():
        planned = [weight for weight in plan.weights if weight.type == type_]
        if not planned:
            whole = type_.startswith(("int", "uint", "bool"))
            (beside if whole else unread).append(f"{_tensors(count)} of type {type_}")
            continue
        others = " (scales, zero points, norms and biases among them are no weights)" if quantized else ""
        lines += ["", f"type {type_}, {_tensors(count)}{others}"]
        for format_ in dict.fromkeys(weight.format.part for weight in planned):
            own = [weight for weight in planned if weight.format.part == format_]
            lines.append(
                f"  format       {format_.name} ({format_.distribution} {format_.version}): {own[0].format.reason}"
            )
            lines += _kernel_lines(own)
            if verbose:
                lines += [f"    {w.kind}: not {r.name}: {r.reason}" for w in own for r in w.rejected]
        refused = {r.name: r for weight in planned for r in weight.format.rejected}
        if verbose:
            lines += [f"{'':<14} not {r.name} ({r.distribution}): {r.reason}" for r in refused.values()]
        else:
            lines += [
                f"{'':<14} not {r.name} ({r.distribution}): {r.reason}" for r in refused.values() if not r.unrelated
            ]
    if not verbose:
        lines += _unused_kernels(plan.weights)
    if beside:
        lines += ["", f"beside weights: {', '.join(beside)} (scales, saved masks, position ids)"]
    if unread:
        lines += ["", f"no format reads {', '.join(unread)}: weights of it are refused"]
    return lines


def _tensors(count: int) -> str:
    return "1 tensor" if count == 1 else f"{count} tensors"


def _kernel_lines(planned: Iterable[WeightPlan]) -> list[str]:
    """The kernels in the order in which they are tried; kinds of layers with the same ones share a line."""
    kinds: dict[str, list[str]] = {}
    for weight in planned:
        kernels = ", else ".join(f"{k.name} ({k.distribution} {k.version}, rank {k.rank})" for k in weight.kernels)
        kinds.setdefault(kernels, []).append(weight.kind)
    return [f"    {', '.join(those)}: kernel {kernels}" for kernels, those in kinds.items()]


def _unused_kernels(planned: Iterable[WeightPlan]) -> list[str]:
    """Kernels that multiply none of the weights, each once: those for other weights and layers in a line."""
    planned = tuple(planned)
    used = {kernel.name for weight in planned for kernel in weight.kernels}
    found: dict[str, list[RejectedCandidate]] = {}
    for weight in planned:
        for candidate in weight.rejected:
            if candidate.name not in used:
                found.setdefault(candidate.name, []).append(candidate)
    lines, unrelated = [], []
    for name, candidates in found.items():
        # What keeps it from weights that it is for; for the others, there is no more to say.
        reasons = dict.fromkeys(c.reason for c in candidates if not c.unrelated)
        if reasons:
            lines.append(f"  not {name} ({candidates[0].distribution}): {'; '.join(reasons)}")
        else:
            unrelated.append(name)
    if unrelated:
        lines.append(f"  for other weights or layers: {', '.join(unrelated)}; --verbose tells of each")
    return ["", "kernels that multiply none of them", *lines] if lines else []
