"""Selects the proposer of speculative decoding and reads its options, and resolves the Plan of its draft model if it
has one.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ValidationError

from dovetail.api.cards import ProposerCard
from dovetail.api.config import ModelConfig
from dovetail.api.errors import DovetailError, ResolutionError, UsageError
from dovetail.api.proposer import DraftOptions
from dovetail.kernel.blame import Blamed, blame, check_class
from dovetail.kernel.choose import choose
from dovetail.kernel.config_facts import attention_requirements
from dovetail.kernel.discovery import import_part
from dovetail.kernel.options import PlanOptions
from dovetail.kernel.plan import Plan
from dovetail.kernel.registry import Offer, Registry
from dovetail.kernel.validation import describe_validation_error
from dovetail.kernel.waiting import wait_for

FLAG = "--speculative-config"
EXAMPLE = f'write for example {FLAG} \'{{"model": "org/a-small-model", "num_speculative_tokens": 4}}\''
INHERITED = ("device", "block_size", "download_dir", "hf_token", "dtype", "kv_cache_dtype", "attention_backend")
"""Options of the main model that hold for a draft model too."""

Resolve = Callable[[PlanOptions, Registry], Plan]


def find_speculation(
    options: PlanOptions,
    config: ModelConfig,
    model: Blamed,
    registry: Registry,
    warnings: list[str],
    resolve: Resolve,
) -> dict[str, Any]:
    """The Plan's fields for speculative decoding; empty if it is not enabled.

    Args:
        config: of the main model.
        model: the part that it belongs to.
        resolve: makes the Plan of a draft model.

    Raises:
        UsageError: an option is not valid; names the key.
        ResolutionError: no proposer fits, or the models cannot be used together.
    """
    if options.speculative_config is None:
        return {}
    given = dict(options.speculative_config)
    method, count = given.pop("method", None), given.pop("num_speculative_tokens", None)
    if method is not None and not isinstance(method, str):
        raise UsageError(f"{FLAG}: method is {method!r}, wanted a name", EXAMPLE)
    if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 1):
        raise UsageError(f"{FLAG}: num_speculative_tokens is {count!r}, wanted a whole number above 0", EXAMPLE)
    if method is None and "model" not in given:
        known = ", ".join(offer.name for offer in registry.offers(ProposerCard)) or "none"
        raise UsageError(
            f"{FLAG} {json.dumps(options.speculative_config)} names no method (installed: {known}) and no model",
            EXAMPLE,
        )
    _refuse_recurrent(config, model, "the model")

    def objection(card: ProposerCard) -> str | None:
        return None if method is not None or card.model else "runs no model of its own"

    offer, choice = choose(
        "proposer", ProposerCard, registry, objection,
        explicit=method, wanted="a proposer that runs a draft model", warnings=warnings,
    )  # fmt: skip
    card = offer.card
    own = read_options(offer, given)
    return {
        "proposer": choice,
        "proposer_config_class": card.config,
        "proposer_config": own.model_dump(mode="json"),
        "num_speculative_tokens": count or card.num_tokens,
        "draft": _resolve_draft(own, options, config, registry, resolve) if card.model else None,
    }


def read_options(offer: Offer[ProposerCard], given: dict[str, Any]) -> BaseModel:
    """A method's own options.

    Raises:
        UsageError: one is unknown or out of its range; names the key.
        PluginError: the card's ``config`` is not a model of options, or raises something else.
    """
    card = offer.card
    found: type[BaseModel] = import_part(offer, card.config)
    check_class(offer, card.config, found, DraftOptions if card.model else BaseModel)
    with blame(offer, f"to read its options with {card.config}"), wait_for(offer, found.__name__):
        try:
            return found.model_validate(given)
        except ValidationError as error:
            known = ", ".join(("method", "num_speculative_tokens", *found.model_fields))
            raise UsageError(
                f"{FLAG}: {'; '.join(map(describe_validation_error, error.errors()))}",
                f"the options of {card.name}: {known}",
            ) from None


def _resolve_draft(
    own: BaseModel, options: PlanOptions, config: ModelConfig, registry: Registry, resolve: Resolve
) -> Plan:
    assert isinstance(own, DraftOptions)
    given = own.model_dump(include=set(DraftOptions.model_fields), exclude_none=True)
    inherited = {name: getattr(options, name) for name in INHERITED}
    try:
        draft = resolve(PlanOptions(**{**inherited, **given}), registry)
        drafting = draft.build_model_config()
        _refuse_recurrent(drafting, draft.model_part.part, "it")
        found = drafting.vocab_size
        if found != config.vocab_size:
            raise ResolutionError(
                f"its vocabulary has {found} tokens and that of the model {config.vocab_size}, so its guesses mean nothing there",
                "take a smaller model of the same family, with the same tokenizer",
            )
        if "generate" not in draft.tasks:
            raise ResolutionError(f"it does {', '.join(draft.tasks)}, not generate", "take a language model")
    except DovetailError as error:
        raise type(error)(f"the draft model {own.model}: {error.problem}", error.hint) from error
    return draft


def _refuse_recurrent(config: ModelConfig, part: Blamed, what: str) -> None:
    if any("recurrent" in requirement.features for requirement in attention_requirements(config, part)):
        raise ResolutionError(
            f"{what} has recurrent layers, whose state cannot be taken back when a guess was wrong",
            f"leave {FLAG} out",
        )
