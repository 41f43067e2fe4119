"""``<think>``, as in most families."""

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
"""Beginnings of calls. Some models call inside their reasoning and do not close it then (vLLM's issues 39056 and
33646). A single marker may be one that the model only thinks about. So if the marker is not unambiguous, the whole
beginning of a call is required.
"""


class Think(TaggedReasoningParser):
    """Models that may answer without reasoning: Qwen 3 and others. See :class:`dovetail.api.ReasoningParser`."""

    interrupt_markers: ClassVar[tuple[str, ...]] = CALLS


class AlwaysThink(Think):
    """Models that always reason, with or without an opening marker: DeepSeek R1."""

    always_reasons = True


class GlmThink(Think):
    """GLM 4.5 to 4.7, whose calls have no fixed text after their marker."""

    interrupt_markers = ("<tool_call>",)
    after_start = ""
    after_end = "\n"


class KimiThink(Think):
    """Kimi K2, which writes no white space around its markers."""

    after_start = ""
    after_end = ""


class ThinkResponse(TaggedReasoningParser):
    """Ernie 4.5, which has markers around the answer too."""

    answer_markers = ("<response>", "</response>")


class ThinkAnswer(TaggedReasoningParser):
    """Hunyuan A13B, which has other markers around the answer."""

    answer_markers = ("<answer>", "</answer>")
