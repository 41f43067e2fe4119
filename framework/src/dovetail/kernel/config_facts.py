"""Asks a model's configuration for what resolution needs, and checks the answers, which a plugin's code gives."""

from __future__ import annotations

from typing import get_args

from dovetail.api.cards import PoolingType
from dovetail.api.config import AttentionRequirement, ModelConfig
from dovetail.kernel.blame import Blamed, blame, wrong_answer
from dovetail.kernel.waiting import wait_for


def attention_requirements(config: ModelConfig, part: Blamed) -> tuple[AttentionRequirement, ...]:
    """The attention that a model's layers need.

    Args:
        part: the model that the configuration belongs to.

    Raises:
        PluginError: the method fails, or returns anything else.
    """
    with (
        blame(part, "to say which attention it needs (attention_requirements)"),
        wait_for(part, "attention_requirements()"),
    ):
        found = config.attention_requirements()
    if isinstance(found, (tuple, list)) and all(isinstance(each, AttentionRequirement) for each in found):
        return tuple(found)
    raise wrong_answer(part, "attention_requirements()", found, "a tuple of AttentionRequirement")


def pooling_type(config: ModelConfig, part: Blamed) -> PoolingType | None:
    """How hidden states become one vector, if the model's configuration says it.

    Args:
        part: the model that the configuration belongs to.

    Raises:
        PluginError: the method fails, or returns anything else.
    """
    with blame(part, "to say how it pools (pooling)"), wait_for(part, "pooling()"):
        found = config.pooling()
    if found is None or found in get_args(PoolingType):
        return found
    raise wrong_answer(part, "pooling()", found, f"one of {', '.join(get_args(PoolingType))}, or None")


def context_lengths(config: ModelConfig, part: Blamed) -> tuple[int, int]:
    """The usual and the longest context of a model, in tokens.

    Args:
        part: the model that the configuration belongs to.

    Raises:
        PluginError: a method fails, or returns anything else.
    """
    with (
        blame(part, "to say how long its context is (context_length, longest_context)"),
        wait_for(part, "context_length() or longest_context()"),
    ):
        found = config.context_length(), config.longest_context()
    for name, length in zip(("context_length()", "longest_context()"), found, strict=True):
        if type(length) is not int:
            raise wrong_answer(part, name, length, "a number of tokens")
    return found
