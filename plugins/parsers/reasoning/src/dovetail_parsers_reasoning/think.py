"""``<think>``, as most families write it."""

from __future__ import annotations

from dovetail.api.parsing import TaggedReasoning


class Think(TaggedReasoning):
    """Of models that may leave their thoughts out: Qwen 3 and others. See :class:`dovetail.api.ReasoningParser`."""


class AlwaysThink(TaggedReasoning):
    """Of models that always think, whether or not anything opens their thoughts: DeepSeek R1."""

    always = True


class ThinkResponse(TaggedReasoning):
    """Ernie 4.5, which marks the answer too."""

    answer = ("<response>", "</response>")


class ThinkAnswer(TaggedReasoning):
    """Hunyuan A13B, which marks the answer otherwise."""

    answer = ("<answer>", "</answer>")


class KimiK2(TaggedReasoning):
    """Kimi K2, which calls tools in the midst of its thoughts, and does not close them then."""

    until = ("<|tool_calls_section_begin|>", "<|tool_call_begin|>")
    after_start = ""
    after_end = ""
