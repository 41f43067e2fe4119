"""Families with their own markers."""

from __future__ import annotations

from dovetail.api.parsing import TaggedReasoningParser


class Mistral(TaggedReasoningParser):
    """Magistral, Ministral 3. See :class:`dovetail.api.ReasoningParser`."""

    start_markers = ("[THINK]",)
    end_markers = ("[/THINK]",)
    after_start = ""
    after_end = ""


class Granite(TaggedReasoningParser):
    """Granite 3.2, which announces reasoning and answer in words, and 3.3, which has tags around both."""

    start_markers = ("Here is my thought process:", "Here's my thought process:", "<think>")
    end_markers = ("Here is my response:", "Here's my response:", "</think>")
    answer_markers = ("<response>", "</response>")


class SeedOss(TaggedReasoningParser):
    """Seed OSS, whose remarks on its budget are part of the reasoning."""

    start_markers = ("<seed:think>",)
    end_markers = ("</seed:think>",)
    after_start = ""
    after_end = "\n"


class Command(TaggedReasoningParser):
    """Command A Reasoning and R7B."""

    start_markers = ("<|START_THINKING|>",)
    end_markers = ("<|END_THINKING|>",)
    answer_markers = ("<|START_RESPONSE|>", "<|END_RESPONSE|>")
    after_start = ""
    after_end = ""


class Command4(Command):
    """Command with another marker around its answers, as in the chat template of its MoE models."""

    answer_markers = ("<|START_TEXT|>", "<|END_TEXT|>")


class Apriel(TaggedReasoningParser):
    """Apriel, which opens its reasoning in words, if its prompt does not."""

    start_markers = ("Here are my reasoning steps:",)
    end_markers = ("[BEGIN FINAL RESPONSE]",)
    after_end = "\n"


class Gemma4(TaggedReasoningParser):
    """Gemma 4."""

    start_markers = ("<|channel>thought",)
    end_markers = ("<channel|>",)
    interrupt_markers = ("<|tool_call>",)
    after_end = ""


class MiniMaxM3(TaggedReasoningParser):
    """MiniMax M3."""

    start_markers = ("<mm:think>",)
    end_markers = ("</mm:think>",)
    after_start = ""
    after_end = ""


class HyV3(TaggedReasoningParser):
    """Hunyuan 3, by its chat template."""

    start_markers = ("<think:opensource>",)
    end_markers = ("</think:opensource>",)
    interrupt_markers = ("<tool_calls:opensource>",)
    after_start = ""
    after_end = ""


class SolarOpen2(TaggedReasoningParser):
    """Solar Open 2, with the markers of vLLM's parser of the same name."""

    start_markers = ("<|think:start|>",)
    end_markers = ("<|think:end|>",)
    interrupt_markers = ("<|tool_call:start|>",)
    after_start = ""
    after_end = ""


class Apertus(TaggedReasoningParser):
    """Apertus, by its chat template; it can call tools inside its reasoning."""

    start_markers = ("<|inner_prefix|>",)
    end_markers = ("<|inner_suffix|>",)
    interrupt_markers = ("<|tools_prefix|>",)
    after_start = ""
    after_end = ""
