"""``<think>``, as most families write it."""

from __future__ import annotations

from typing import ClassVar

from dovetail.api.parsing import TaggedReasoningParser

CALLS: tuple[str, ...] = (
    "<tool_call>\n<function=",
    '<tool_call>\n{"name"',
    "<seed:tool_call>",
    "<minimax:tool_call>",
    "<|tool_calls_section_begin|>",
    "<|tool_call_begin|>",
    "<｜tool▁calls▁begin｜>",
    "<｜DSML｜function_calls>",
    "<｜DSML｜tool_calls>",
    "<｜tool_calls_begin｜>",
    "<longcat_tool_call>",
)
"""How calls begin. Some models call in the midst of their thoughts, and do not close them then (vLLM's issues 39056 and 33646). A mark that stands alone may be
one that the model thinks about, so it is the beginning of a call as a whole that counts, where the mark is no word of its own."""


class Think(TaggedReasoningParser):
    """Of models that may leave their thoughts out: Qwen 3 and others. See :class:`dovetail.api.ReasoningParser`."""

    interrupt_markers: ClassVar[tuple[str, ...]] = CALLS


class AlwaysThink(Think):
    """Of models that always think, whether or not anything opens their thoughts: DeepSeek R1."""

    always_reasons = True


class GlmThink(Think):
    """GLM 4.5 to 4.7, whose calls have nothing definite behind their mark."""

    interrupt_markers = ("<tool_call>",)
    after_start = ""
    after_end = "\n"


class KimiThink(Think):
    """Kimi K2, which writes no white space about its marks."""

    after_start = ""
    after_end = ""


class ThinkResponse(TaggedReasoningParser):
    """Ernie 4.5, which marks the answer too."""

    answer_markers = ("<response>", "</response>")


class ThinkAnswer(TaggedReasoningParser):
    """Hunyuan A13B, which marks the answer otherwise."""

    answer_markers = ("<answer>", "</answer>")
