"""The hook specifications: the manual of what a plugin can offer.

A plugin is a module named by an entry point in the group ``dovetail.plugins``. It implements any of the
hooks below with :data:`hookimpl`. Every hook is *collecting*: all plugins are asked, each answers with a list
of cards, and an empty list means "nothing of this kind from me". The order of installation decides nothing.

Hooks are called once, right after the plugin's module was imported, in every process that discovers plugins
(the command line and the API; engine workers receive a finished Plan instead). They must be cheap: no torch, no
files, no devices. What a card names by ``"module:attribute"`` is imported only when it is needed: a ``target`` once its card has been
chosen, the torch-free rest (``inspect``, ``config``, ``naming``) while the choice is made, and a ``probe`` when its card is a candidate.

An implementation that raises, or answers with anything but a list of the right cards, quarantines its plugin:
the others work, and ``dovetail plugins doctor`` names it.
"""

from __future__ import annotations

from collections.abc import Sequence

import pluggy

from dovetail.api.cards import (
    AttentionCard,
    GrammarCard,
    LoaderCard,
    LogitsProcessorCard,
    ModelCard,
    PlatformCard,
    ProposerCard,
    QuantFormatCard,
    QuantKernelCard,
    ReasoningParserCard,
    SourceCard,
    ToolParserCard,
)

PROJECT = "dovetail"
"""Name of the pluggy project, and the prefix of every hook."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a function as an implementation of one of the hooks in this module."""


@hookspec
def dovetail_register_models() -> Sequence[ModelCard]:
    """Model architectures.

    A card is looked up by the names in ``architectures`` of a model's ``config.json`` (after
    ``hf_overrides``). Two cards may offer one architecture; the higher rank wins.
    """
    raise NotImplementedError


@hookspec
def dovetail_register_loaders() -> Sequence[LoaderCard]:
    """Readers of weight files.

    A card's ``recognises`` patterns are matched against the names of the files found at the model
    reference, and its ``signatures`` against what they begin with; ``--load-format`` names a card directly, and is the only way to one without patterns. The card's ``inspect`` then
    describes the checkpoint without torch.
    """
    raise NotImplementedError


@hookspec
def dovetail_register_quantization() -> Sequence[QuantFormatCard | QuantKernelCard]:
    """Quantization formats (how packed weights are read) and kernels (how they are multiplied).

    The two are independent: a format works on every platform through its reference dequantization, and a
    kernel accelerates every format that can hand its weights out in a packing which the kernel takes.
    """
    raise NotImplementedError


@hookspec
def dovetail_register_attention() -> Sequence[AttentionCard]:
    """Attention backends: each owns its KV-cache layout, its metadata and its kernels."""
    raise NotImplementedError


@hookspec
def dovetail_register_platforms() -> Sequence[PlatformCard]:
    """Devices. ``--device`` names one; ``auto`` takes the highest-ranked one whose probe finds it."""
    raise NotImplementedError


@hookspec
def dovetail_register_sources() -> Sequence[SourceCard]:
    """What a model reference means: a path, a repository on a hub, a model shipped in a wheel.

    Sources are asked from the highest rank down; the first whose ``resolve`` answers with a path wins,
    so a source must answer ``None`` for references that are not its own. A source may bring a generation configuration with the
    path: default sampling parameters for a checkpoint whose own files have none. ``--generation-config``,
    ``--override-generation-config`` and requests win over it.
    """
    raise NotImplementedError


@hookspec
def dovetail_register_grammars() -> Sequence[GrammarCard]:
    """Backends of structured output: JSON schemas, expressions, grammars. ``--structured-outputs-backend`` names one; ``auto`` takes the
    highest-ranked one. With none installed, requests for structure are refused.
    """
    raise NotImplementedError


@hookspec
def dovetail_register_proposers() -> Sequence[ProposerCard]:
    """Sources of draft tokens for speculative decoding; ``--speculative-config '{"method": NAME, …}'`` names one."""
    raise NotImplementedError


@hookspec
def dovetail_register_logits_processors() -> Sequence[LogitsProcessorCard]:
    """What changes logits before a token is chosen. Requests name one in ``logits_processors``; ``--logits-processors`` gives one to all of
    them. Without either it costs nothing.
    """
    raise NotImplementedError


@hookspec
def dovetail_register_parsers() -> Sequence[ToolParserCard | ReasoningParserCard]:
    """Notations of tool calls and of reasoning in the text that models write.

    ``--tool-call-parser`` and ``--reasoning-parser`` name one each; ``auto`` goes by the chat template (``recognises``), and ``none`` leaves the
    text as it is.
    """
    raise NotImplementedError
