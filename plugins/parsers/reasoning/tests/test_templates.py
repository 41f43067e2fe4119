"""The published templates: which parser each chooses, and that it sees whether the prompt opened or closed the thoughts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dovetail_parsers_reasoning
import pytest

from dovetail.api import Content, Reasoning, ReasoningParser, ReasoningParserCard
from dovetail.engine.templates.chat_template import render
from dovetail.kernel.discovery import import_dotted
from dovetail.kernel.parsers import find_parsers
from dovetail.kernel.plan_parts import recognise
from dovetail.testing import make_registry

DATA = Path(__file__).parent / "data"
CARDS = {card.name: card for card in dovetail_parsers_reasoning.dovetail_register_parsers()}

CHOSEN = {
    "Apertus-8B-Instruct": "apertus",
    "Apriel-1.6-15b-Thinker-fixed": "apriel",
    "ByteDance-Seed-OSS": "seed_oss",
    "Cohere2MoE": "cohere_command4",
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": "cohere_command3",
    "GLM-4.6": "glm4",
    "GLM-4.7-Flash": "glm4",
    "Kimi-K2-Thinking": "kimi_k2",
    "Kimi-K3": "kimi_k3",
    "MiniMax-M2": "qwen3",
    "MiniMax-M3": "minimax_m3",
    "Qwen-QwQ-32B": "qwen3",
    "Qwen-Qwen2.5-7B-Instruct": None,
    "Qwen-Qwen3-0.6B": "qwen3",
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": "deepseek_r1",
    "deepseek-ai-DeepSeek-V3.1": "qwen3",
    "google-gemma-2-2b-it": None,
    "google-gemma-4-31B-it": "gemma4",
    "ibm-granite-granite-3.3-2B-Instruct": "granite",
    "mistralai-Ministral-3-14B-Reasoning-2512": "mistral",
    "muse-glimmer": "muse_glimmer",
    "openai-gpt-oss-120b": "harmony",
    "tencent-Hy3": "hy_v3",
    "upstage-Solar-Open-100B": "solar_open",
}
OPEN, CLOSED, FREE = "opened by the prompt", "closed by the prompt", "left to the model"
PROMPTS = [
    ("Qwen-Qwen3-0.6B", {}, FREE),
    ("Qwen-Qwen3-0.6B", {"enable_thinking": False}, CLOSED),
    ("Qwen-QwQ-32B", {"enable_thinking": True}, OPEN),
    ("deepseek-ai-DeepSeek-R1-Distill-Llama-8B", {}, OPEN),
    ("deepseek-ai-DeepSeek-V3.1", {}, CLOSED),
    ("deepseek-ai-DeepSeek-V3.1", {"enable_thinking": True}, OPEN),
    ("GLM-4.6", {}, FREE),
    ("GLM-4.6", {"enable_thinking": False}, CLOSED),
    ("GLM-4.7-Flash", {}, OPEN),
    ("GLM-4.7-Flash", {"enable_thinking": False}, CLOSED),
    ("MiniMax-M2", {}, OPEN),
    ("Apriel-1.6-15b-Thinker-fixed", {}, OPEN),
    ("google-gemma-4-31B-it", {"enable_thinking": True}, FREE),
    ("google-gemma-4-31B-it", {"enable_thinking": False}, CLOSED),
    ("ByteDance-Seed-OSS", {}, FREE),
    ("Apertus-8B-Instruct", {}, FREE),
    ("Cohere2MoE", {"reasoning": True}, OPEN),
    ("Cohere2MoE", {"reasoning": False}, CLOSED),
    ("Kimi-K3", {}, OPEN),
    ("Kimi-K3", {"thinking": False}, CLOSED),
    ("muse-glimmer", {}, FREE),
    ("tencent-Hy3", {}, CLOSED),
    ("tencent-Hy3", {"reasoning_effort": "high"}, OPEN),
    ("upstage-Solar-Open-100B", {}, FREE),
    ("upstage-Solar-Open-100B", {"reasoning_effort": "low"}, CLOSED),
]


def chosen(template: str) -> str | None:
    candidates = find_parsers(ReasoningParserCard, "reasoning_parser", "auto", make_registry(*CARDS.values()), [])
    found = recognise(candidates, (DATA / f"{template}.jinja").read_text())
    return found.part.name if found else None


def test_the_table_has_every_template() -> None:
    assert {path.stem for path in DATA.glob("*.jinja")} == set(CHOSEN)


@pytest.mark.parametrize("template", CHOSEN)
def test_the_template_chooses(template: str) -> None:
    assert chosen(template) == CHOSEN[template]


@pytest.mark.parametrize(("template", "variables", "wanted"), PROMPTS)
def test_the_prompt_says_whether_thoughts_have_begun(template: str, variables: dict[str, Any], wanted: str) -> None:
    prompt = render(
        (DATA / f"{template}.jinja").read_text(),
        [{"role": "user", "content": "Hi"}],
        variables={"bos_token": "<s>", "eos_token": "</s>", **variables},
    )
    target = import_dotted(CARDS[str(CHOSEN[template])].target)

    def read(text: str) -> list[Any]:
        parser: ReasoningParser = target(prompt)
        return [*parser.feed(text), *parser.finish()]

    reasoning_markers = target(prompt).reasoning_markers()
    if wanted == CLOSED:
        assert reasoning_markers is None
        assert read("Hello") == [Content("Hello")]
        return
    assert reasoning_markers
    assert (reasoning_markers[0] == "") == (wanted == OPEN)
    assert read("Hello") == [(Reasoning if wanted == OPEN else Content)("Hello")]
    assert read(f"{reasoning_markers[0]}why{reasoning_markers[1]}Hello") == [Reasoning("why"), Content("Hello")]
