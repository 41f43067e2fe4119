"""Parameters of pooling requests: how a prompt becomes a vector."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from operator import mul
from typing import Protocol, TypeVar, get_args

import msgspec

from dovetail.api.cards import PoolingType, Task
from dovetail.api.errors import RequestError
from dovetail.engine.request.checks import ModelLimits, check_prompt
from dovetail.engine.request.params import SamplingParams
from dovetail.kernel.plan_parts import PoolingPlan

T = TypeVar("T")

POOLING_TASKS: tuple[Task, ...] = ("embed", "classify", "score")
"""The tasks that return vectors."""
NO_SAMPLING = SamplingParams(max_tokens=None, temperature=0)
"""Used in place of a pooling request's sampling parameters."""


class PoolingParams(msgspec.Struct, array_like=True, gc=False):
    """How to make a vector of a prompt. None means the model's default.

    Attributes:
        task: ``embed``, ``classify`` or ``score``.
        dimensions: truncate an embedding to this many dimensions; only for models that were trained for it
            (Matryoshka).
        use_activation: whether embeddings are normalised to length 1, and labels and scores are probabilities instead
            of logits.
        normalize: older name of ``use_activation``.
        pooling_type: ``last``, ``mean`` or ``cls``.
        truncate_prompt_tokens: keep only this many tokens from the start of the prompt; -1 for what the context holds.
    """

    task: Task | None = None
    dimensions: int | None = None
    use_activation: bool | None = None
    normalize: bool | None = None
    pooling_type: PoolingType | None = None
    truncate_prompt_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.normalize is not None:
            if self.use_activation not in (None, self.normalize):
                raise RequestError(
                    f"normalize is {self.normalize} and use_activation is {self.use_activation}",
                    "they are two names of one parameter; give one of them",
                    param="normalize",
                )
            self.use_activation = self.normalize
        self._check_one_of("task", POOLING_TASKS)
        self._check_one_of("pooling_type", get_args(PoolingType))
        for name in ("dimensions", "truncate_prompt_tokens"):
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            if value is not None and not (whole and (value >= 1 or (name != "dimensions" and value == -1))):
                raise RequestError(f"{name} is {value!r}", "wanted a number above 0", param=name)

    def _check_one_of(self, name: str, words: Sequence[str]) -> None:
        value = getattr(self, name)
        if value is not None and value not in words:
            raise RequestError(f"{name} is {value!r}", f"wanted one of {', '.join(words)}", param=name)


class PoolingSetup(Protocol):
    """The part of a :class:`~dovetail.kernel.plan.Plan` that is about pooling."""

    @property
    def model(self) -> str: ...

    @property
    def tasks(self) -> tuple[Task, ...]: ...

    @property
    def tasks_reason(self) -> str: ...

    @property
    def pooling(self) -> PoolingPlan | None: ...


def explain_missing_task(plan: PoolingSetup, *wanted: str) -> tuple[str, str]:
    """The error text for a task that the model does not serve, with what would help."""
    problem = f"wanted {' or '.join(wanted)}, and {plan.model} does {', '.join(plan.tasks)} ({plan.tasks_reason})"
    if "embed" in wanted and "generate" in plan.tasks:
        return problem, "start it with --convert embed, or take a model that was trained for embeddings"
    if "generate" in wanted:
        return problem, "start it with --runner generate if it is a language model, or take another model"
    return problem, f"take a model that was trained to {wanted[0]}"


def check_can_generate(plan: PoolingSetup) -> None:
    """Check that the model serves text generation.

    Raises:
        RequestError: it does not.
    """
    if "generate" not in plan.tasks:
        raise RequestError(*explain_missing_task(plan, "generate"))


def resolve_pooling_params(params: PoolingParams, plan: PoolingSetup) -> PoolingParams:
    """Fill in the model's defaults for what the user did not set.

    Raises:
        RequestError: the model does not serve the task, or its vectors cannot be truncated.
    """
    own = [task for task in plan.tasks if task != "generate"]
    task = params.task or (own[0] if own else "embed")
    if task not in plan.tasks or plan.pooling is None:
        raise RequestError(*explain_missing_task(plan, task), param="task")
    _check_dimensions(params.dimensions, task, plan.pooling)
    activation = params.use_activation
    if activation is None:
        activation = plan.pooling.normalize if task == "embed" else True
    return PoolingParams(
        task=task,
        dimensions=params.dimensions,
        use_activation=activation,
        pooling_type=params.pooling_type or plan.pooling.type,
    )


def find_prompt(pooling: PoolingPlan | None, task: Task | None, name: str | None) -> str:
    """The text that belongs before a text that is embedded; empty for none.

    Args:
        task: None for embeddings, if the model has them.
        name: of one of the model's prompts; None for its default.

    Raises:
        RequestError: the model has no such prompt, or the task none at all.
    """
    known = {} if pooling is None or task not in (None, "embed") else pooling.prompts
    if name is None:
        name = pooling.default_prompt if pooling is not None and known else None
        return "" if name is None else known[name]
    if name in known:
        return known[name]
    if task not in (None, "embed"):
        raise RequestError(
            f"prompt_name is {name!r}, and only embeddings have prompts", "leave it out", param="prompt_name"
        )
    raise RequestError(
        f"prompt_name is {name!r}, and the model has {'the prompts ' + ', '.join(known) if known else 'no prompts'}",
        "take one of those" if known else "leave it out, and send the whole text",
        param="prompt_name",
    )


def _check_dimensions(requested: int | None, task: Task, pooling: PoolingPlan) -> None:
    if requested is None:
        return
    if task != "embed":
        raise RequestError(
            f"dimensions is {requested}, and only embeddings can be cut", "leave it out", param="dimensions"
        )
    sizes = pooling.dimensions
    if sizes is None:
        raise RequestError(
            f"dimensions is {requested}, and the model was not trained to have its embeddings cut (Matryoshka)",
            "leave it out; if it was, start the server with --hf-overrides '{\"is_matryoshka\": true}'",
            param="dimensions",
        )
    if sizes and requested not in sizes:
        raise RequestError(
            f"dimensions is {requested}, and the model was trained for {', '.join(map(str, sizes))}",
            "take one of those",
            param="dimensions",
        )


def check_pooling(prompt_token_ids: Sequence[int], params: PoolingParams, limits: ModelLimits, width: int) -> None:
    """Check a pooling request against the model.

    Args:
        params: from :func:`resolve_pooling_params`.
        width: dimensions of a full embedding.

    Raises:
        RequestError: the prompt does not fit, or ``dimensions`` is not possible.
    """
    check_prompt(prompt_token_ids, limits.max_model_len, limits.vocab_size, with_output=False)
    if params.dimensions is not None and params.dimensions > width:
        raise RequestError(
            f"dimensions is {params.dimensions}, and the model's embeddings have {width}",
            f"ask for at most {width}",
            param="dimensions",
        )


def floats(vector: bytes) -> list[float]:
    """The numbers of an encoded vector: float32, little-endian."""
    return list(struct.unpack(f"<{len(vector) // 4}f", vector))


def broadcast_pairs(first: Sequence[T], second: Sequence[T]) -> Iterator[tuple[T, T]]:
    """Pairs of one text with each of the others, or of equally long lists."""
    return zip(first if len(first) > 1 else [*first] * len(second), second, strict=True)


def cosine_similarity(a: Sequence[float], b: Sequence[float]) -> float:
    """Cosine of the angle between two vectors; 0 if one of them is zero."""
    lengths = math.hypot(*a) * math.hypot(*b)
    return sum(map(mul, a, b)) / lengths if lengths else 0.0
