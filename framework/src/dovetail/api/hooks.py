"""The hook specifications: the manual of what a plugin can offer.

A plugin is a module named by an entry point in the group ``dovetail.plugins``. It implements any of the hooks below
with :data:`hookimpl`. Every hook is *collecting*: it is called on all plugins, and each returns a list of cards. An
empty list means that the plugin offers nothing of this kind. The order of installation has no effect.

Hooks are called once, right after the plugin's module was imported, in every process that discovers plugins (the
command line and the API; engine workers receive a finished Plan instead). They must be cheap: no torch, no files, no
devices. What a card names by ``"module:attribute"`` is imported only when it is needed: a ``target`` once its card is
selected; ``inspect``, ``config`` and ``naming``, which are torch-free, during the selection; and a ``probe`` if its
card is a candidate.

If an implementation raises, is an ``async def``, or returns anything but a list of the right cards, its plugin is
quarantined: the others work, and ``dovetail plugins doctor`` names it. The fields of cards are checked again, whatever
they were made with.
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

    A card's ``recognises`` patterns are matched against the names of the files found at the model reference, and its
    ``signatures`` against their first bytes. ``--load-format`` selects a card by name, which is the only way for a card
    without patterns. The card's ``inspect`` then describes the checkpoint without torch.
    """
    raise NotImplementedError


@hookspec
def dovetail_register_quantization() -> Sequence[QuantFormatCard | QuantKernelCard]:
    """Quantization formats (how packed weights are read) and kernels (how they are multiplied).

    The two are independent: a format works on every platform through its reference dequantization, and a kernel
    accelerates every format that can convert its weights to a packing that the kernel supports.
    """
    raise NotImplementedError


@hookspec
def dovetail_register_attention() -> Sequence[AttentionCard]:
    """Attention backends: each owns its KV-cache layout, its metadata and its kernels."""
    raise NotImplementedError


@hookspec
def dovetail_register_platforms() -> Sequence[PlatformCard]:
    """Devices. ``--device`` names one; ``auto`` selects the highest-ranked one whose probe succeeds."""
    raise NotImplementedError


@hookspec
def dovetail_register_sources() -> Sequence[SourceCard]:
    """What a model reference means: a path, a repository on a hub, a model shipped in a wheel.

    Sources are tried from the highest rank down, and the first one whose ``resolve`` returns a path is used. So a
    source must return ``None`` for references that are not its own. With the path, a source may return a generation
    configuration: default sampling parameters for a checkpoint whose own files have none. ``--generation-config``,
    ``--override-generation-config`` and requests override it.
    """
    raise NotImplementedError


@hookspec
def dovetail_register_grammars() -> Sequence[GrammarCard]:
    """Backends of structured output: JSON schemas, expressions, grammars. ``--structured-outputs-backend`` names
    one; ``auto`` selects the highest-ranked one. If none is installed, requests for structured output are refused.
    """
    raise NotImplementedError


@hookspec
def dovetail_register_proposers() -> Sequence[ProposerCard]:
    """Sources of draft tokens for speculative decoding; ``--speculative-config '{"method": NAME, …}'`` names one."""
    raise NotImplementedError


@hookspec
def dovetail_register_logits_processors() -> Sequence[LogitsProcessorCard]:
    """Logits processors, which change logits before a token is chosen. Requests name them in ``logits_processors``;
    ``--logits-processors`` adds one to all requests. Unused ones cost nothing.
    """
    raise NotImplementedError


@hookspec
def dovetail_register_parsers() -> Sequence[ToolParserCard | ReasoningParserCard]:
    """Formats of tool calls and of reasoning in the text that models write.

    ``--tool-call-parser`` and ``--reasoning-parser`` name one each; ``auto`` decides by the chat template
    (``recognises``), and ``none`` turns parsing off.
    """
    raise NotImplementedError
