"""Parsers of reasoning: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import TUNED, ReasoningParserCard, hookimpl

THINK = ("<think>", "</think>")


@hookimpl
def dovetail_register_parsers() -> list[ReasoningParserCard]:
    return [
        ReasoningParserCard(
            name="qwen3",
            summary="<think>…</think>, where there are thoughts",
            target="dovetail_parsers_reasoning.think:Think",
            recognises=("</think>",),
            special_tokens=THINK,
        ),
        ReasoningParserCard(
            name="deepseek_r1",
            summary="…</think>, with thoughts even if nothing opens them",
            target="dovetail_parsers_reasoning.think:AlwaysThink",
            recognises=(r"<｜Assistant｜><think>\\n' *\}\}",),
            rank=TUNED,
            special_tokens=THINK,
        ),
    ]
