"""Parsers of tool calls: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import ToolParserCard, hookimpl
from dovetail_parsers_tools.json_arguments import cards as json_cards
from dovetail_parsers_tools.text_arguments import cards as text_cards

ALIASES = {
    "apriel": ("minimax", "hunyuan_a13b", "jamba"),
    "cohere_command3": ("cohere_command4",),
    "glm4": ("glm45", "glm47", "ling3", "poolside_v1"),
    "harmony": ("openai",),
    "hermes": ("granite4", "ernie45"),
    "llama4": ("llama4_pythonic", "llama4_json"),
    "phi4": ("phi4_mini_json",),
    "qwen3_coder": ("qwen3_xml", "step3p5", "mimo"),
}
"""vLLM's names of the same parsers."""


@hookimpl
def dovetail_register_parsers() -> list[ToolParserCard]:
    cards = [*json_cards.CARDS, *text_cards.CARDS]
    others = [c.model_copy(update={"name": name, "recognises": ()}) for c in cards for name in ALIASES.get(c.name, ())]
    return [*cards, *others]
