"""``<think>``, as most families write it."""

from __future__ import annotations

from dovetail.api.parsing import TaggedReasoning


class Think(TaggedReasoning):
    """Of models that may leave their thoughts out: Qwen 3 and others. See :class:`dovetail.api.ReasoningParser`."""


class AlwaysThink(TaggedReasoning):
    """Of models that always think, whether or not they open their thoughts themselves: DeepSeek R1 and QwQ."""

    always = True
