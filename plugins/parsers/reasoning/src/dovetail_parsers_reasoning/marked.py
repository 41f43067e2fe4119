"""Marks of other families' own."""

from __future__ import annotations

from dovetail.api.parsing import TaggedReasoning


class Mistral(TaggedReasoning):
    """Magistral, Ministral 3. See :class:`dovetail.api.ReasoningParser`."""

    starts = ("[THINK]",)
    ends = ("[/THINK]",)
    after_start = ""
    after_end = ""


class Granite(TaggedReasoning):
    """Granite 3.2, which says in words what it does, and 3.3, which has tags about its thoughts and its answer."""

    starts = ("Here is my thought process:", "Here's my thought process:", "<think>")
    ends = ("Here is my response:", "Here's my response:", "</think>")
    answer = ("<response>", "</response>")


class SeedOss(TaggedReasoning):
    """Seed OSS, whose remarks on its budget are part of its thoughts."""

    starts = ("<seed:think>",)
    ends = ("</seed:think>",)
    after_start = ""
    after_end = "\n"


class Command(TaggedReasoning):
    """Command A Reasoning and R7B."""

    starts = ("<|START_THINKING|>",)
    ends = ("<|END_THINKING|>",)
    answer = ("<|START_RESPONSE|>", "<|END_RESPONSE|>")
    after_start = ""
    after_end = ""


class Command4(Command):
    """Command with another mark about its answers, as the chat template of its mixtures of experts has it."""

    answer = ("<|START_TEXT|>", "<|END_TEXT|>")


class Apriel(TaggedReasoning):
    """Apriel, which opens its thoughts in words, where its prompt does not."""

    starts = ("Here are my reasoning steps:",)
    ends = ("[BEGIN FINAL RESPONSE]",)
    after_end = "\n"


class Gemma4(TaggedReasoning):
    """Gemma 4."""

    starts = ("<|channel>thought",)
    ends = ("<channel|>",)
    until = ("<|tool_call>",)
    after_end = ""


class MiniMaxM3(TaggedReasoning):
    """MiniMax M3."""

    starts = ("<mm:think>",)
    ends = ("</mm:think>",)
    after_start = ""
    after_end = ""


class HyV3(TaggedReasoning):
    """Hunyuan 3, by its chat template."""

    starts = ("<think:opensource>",)
    ends = ("</think:opensource>",)
    until = ("<tool_calls:opensource>",)
    after_start = ""
    after_end = ""


class SolarOpen2(TaggedReasoning):
    """Solar Open 2. The marks are those of vLLM's parser of the same name."""

    starts = ("<|think:start|>",)
    ends = ("<|think:end|>",)
    until = ("<|tool_call:start|>",)
    after_start = ""
    after_end = ""


class Apertus(TaggedReasoning):
    """Apertus, by its chat template; it calls in the midst of its thoughts."""

    starts = ("<|inner_prefix|>",)
    ends = ("<|inner_suffix|>",)
    until = ("<|tools_prefix|>",)
    after_start = ""
    after_end = ""
