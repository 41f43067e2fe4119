"""The cards that nearly every decoder has: its blocks with three heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from dovetail.api.cards import ModelCard, NamingCard

Form = Literal["ForCausalLM", "Model", "ForSequenceClassification"]
FORMS: tuple[Form, ...] = ("ForCausalLM", "Model", "ForSequenceClassification")


def decoder_cards(
    name: str,
    summary: str,
    stem: str,
    *,
    target: str,
    config: str,
    experts: bool = False,
    forms: tuple[Form, ...] = FORMS,
    naming: Mapping[str, NamingCard] | None = None,
    headless: Mapping[str, Any] | None = None,
    **fields: Any,
) -> list[ModelCard]:
    """The cards of a decoder as a language model, of its blocks without a head for embeddings, and with one for the
    labels of a text: NAME, NAME-embedding and NAME-classifier. With one label that is the score of a pair of texts, and the
    labels may be tokens of the vocabulary (:class:`dovetail.nn.SequenceClassifier`).

    Args:
        stem: of the architectures' names: ``Tiny2`` for ``Tiny2ForCausalLM``, ``Tiny2Model`` and
            ``Tiny2ForSequenceClassification``.
        target: module and stem of the three classes, such as ``my_package.model:Tiny``.
        experts: there are layers with experts.
        forms: which of the three there are.
        naming: of the language model.
        headless: fields of the others alone, or in the place of ``fields``.
        fields: of all cards.
    """
    kinds = ("linear", "embedding", *(("experts",) if experts else ()))
    own: dict[Form, dict[str, Any]] = {
        "ForCausalLM": {
            "name": name,
            "summary": summary,
            "layer_kinds": (*kinds, "head"),
            "naming": dict(naming or {}),
        },
        "Model": {"name": f"{name}-embedding", "summary": f"{summary}; without a head", "tasks": ("embed",)},
        "ForSequenceClassification": {
            "name": f"{name}-classifier",
            "summary": f"{summary}; with a head for the labels of a text",
            "tasks": ("score", "classify"),
            "layer_kinds": (*kinds, "head"),
        },
    }
    return [
        ModelCard(
            architectures=(f"{stem}{form}",),
            target=f"{target}{form}",
            config=config,
            **(fields | ({} if form == "ForCausalLM" else {"layer_kinds": kinds, **(headless or {})}) | own[form]),
        )
        for form in forms
    ]
