"""What a Plan is made of: the parts of plugins that were selected, the rejected ones, and the reasons."""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict

from dovetail.api.cards import Dotted, LayerKind, PoolingType
from dovetail.kernel.waiting import wait_for

ANY = ("",)
"""A pattern that matches every template."""


class FrozenModel(BaseModel):
    # Published configurations hold Infinity, which must arrive in the engine's process as what it is.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class Part(FrozenModel):
    """One part of a plugin."""

    kind: str = "part"
    """Of its card."""
    name: str
    distribution: str
    version: str
    target: Dotted
    rank: int = 0
    """Of its card."""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}" + (f" ({self.distribution} {self.version})" if self.distribution else "")


class RejectedCandidate(FrozenModel):
    """A candidate that was not selected."""

    name: str
    distribution: str
    reason: str
    unrelated: bool = False
    """Whether it is for other weights or layers than this one, and so says nothing of the machine or the options."""


class Choice(FrozenModel):
    """The part selected for one role, the reason, and the rejected candidates with their reasons."""

    role: str
    part: Part
    reason: str
    rejected: tuple[RejectedCandidate, ...] = ()


class WeightPlan(FrozenModel):
    """How weights of one stored type are stored and multiplied, in one kind of layer."""

    kind: LayerKind
    type: str
    format: Choice
    config: Dotted | None = None
    """What reads the checkpoint's ``quantization_config`` for the format; None if it gets it as it is."""
    kernels: tuple[Part, ...]
    """Kernels in order of rank. The first one that accepts a layer's shape is used."""
    rejected: tuple[RejectedCandidate, ...] = ()


class ParserPlan(FrozenModel):
    """A candidate for a parser."""

    part: Part
    recognises: tuple[str, ...]
    """Regular expressions. One of them must match in the chat template."""
    special_tokens: tuple[str, ...] = ()
    """Markers of its format that must stay in the text even if they are special tokens."""


class LogitsProcessorPlan(FrozenModel):
    """A logits processor that requests may name."""

    name: str
    distribution: str = ""
    """Empty for a class that the user named as ``module:Class``."""
    version: str = ""
    target: Dotted
    config: Dotted | None = None
    """What reads the arguments of requests; None where it takes any."""
    everywhere: bool = False
    """Whether requests that do not name it get it, too."""

    def __str__(self) -> str:
        return f"logits processor {self.name}" + (f" ({self.distribution} {self.version})" if self.distribution else "")


class PoolingPlan(FrozenModel):
    """How the hidden states of a prompt become one vector."""

    type: PoolingType
    normalize: bool
    """Whether embeddings are normalised to length 1."""
    dimensions: tuple[int, ...] | None = None
    """Dimensions that embeddings can be truncated to (Matryoshka): empty for any; None for none, because the model
    was not trained for it.
    """
    prompts: dict[str, str] = {}
    """Name → text that belongs before the texts of embeddings, such as ``search_query: ``."""
    default_prompt: str | None = None
    """Which of them is used if a request names none."""
    reason: str


def recognise(candidates: tuple[ParserPlan, ...], template: str) -> ParserPlan | None:
    """The first candidate that recognises the format in a chat template.

    The patterns of a card can take long for a template that was made for that. For templates of strangers, look for
    :func:`~dovetail.kernel.parsers.all_patterns` where it does no harm, and call
    :func:`~dovetail.kernel.parsers.first_match`.
    """
    for found in candidates:
        with wait_for(found.part, "its search in the chat template"):
            if any(re.search(pattern, template) for pattern in found.recognises):
                return found
    return None
