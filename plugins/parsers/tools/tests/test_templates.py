"""The published templates: which parser each chooses, and that it reads the calls which the template renders."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dovetail_parsers_tools
import pytest

from dovetail.api import CallArguments, CallBegin, RequestError, ToolParserCard
from dovetail.engine.templates.chat_template import render
from dovetail.kernel.discovery import import_dotted
from dovetail.kernel.parsers import find_parsers
from dovetail.kernel.plan_parts import recognise
from dovetail.testing import make_registry

DATA = Path(__file__).parent / "data"
CARDS = {card.name: card for card in dovetail_parsers_tools.dovetail_register_parsers()}

CHOSEN = {
    "Apertus-8B-Instruct": "apertus",
    "Apriel-1.6-15b-Thinker-fixed": "apriel",
    "ByteDance-Seed-OSS": "seed_oss",
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": "cohere_command3",
    "GLM-4.6": "glm4",
    "GLM-4.7-Flash": "glm4",
    "GigaChat3-10B-A1.8B": "gigachat3",
    "GigaChat3.1-10B-A1.8B": "gigachat31",
    "Kimi-K3": "kimi_k3",
    "LFM2-8B-A1B": "lfm2",
    "LFM2.5-8B-A1B": "lfm2",
    "MiniMax-M1": "apriel",
    "MiniMax-M2": "minimax_m2",
    "MiniMax-M3": "minimax_m3",
    "Mistral-Small-3.2-24B-Instruct-2506": "mistral_args",
    "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": "qwen3_coder",
    "NVIDIA-Nemotron-Nano-v2": "nemotron",
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use": "hermes",
    "Qwen-Qwen2.5-7B-Instruct": "hermes",
    "Qwen-Qwen3-0.6B": "hermes",
    "Qwen3-Coder": "qwen3_coder",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": "deepseek_v3",
    "deepseek-ai-DeepSeek-V3.1": "deepseek_v31",
    "deepseek-ai-DeepSeek-V3.2": "deepseek_v32",
    "deepseek-ai-DeepSeek-V4": "deepseek_v4",
    "fireworks-ai-llama-3-firefunction-v2": "phi4",
    "google-gemma-2-2b-it": "json",
    "google-gemma-4-31B-it": "gemma4",
    "ibm-granite-granite-3.3-2B-Instruct": "granite",
    "ibm-granite-granite-4.0": "hermes",
    "llama-cpp-rwkv-world": "json",
    "meetkai-functionary-medium-v3.1": "functionary_v31",
    "meetkai-functionary-medium-v3.2": "functionary_v32",
    "meta-llama-Llama-3.1-8B-Instruct": "llama3_json",
    "meta-llama-Llama-3.2-3B-Instruct": "llama3_json",
    "microsoft-Phi-3.5-mini-instruct": "json",
    "mistralai-Ministral-3-14B-Reasoning-2512": "mistral_args",
    "mistralai-Mistral-Nemo-Instruct-2407": "mistral",
    "moonshotai-Kimi-K2": "kimi_k2",
    "muse-glimmer": "muse_glimmer",
    "openai-gpt-oss-120b": "harmony",
    "openbmb-MiniCPM5-1B": "minicpm5",
    "poolside-Laguna-XS-2.1": "glm4",
    "tencent-Hy3": "hy_v3",
    "upstage-Solar-Open-100B": "solar_open",
}
SILENT = {
    "LFM2-8B-A1B",
    "fireworks-ai-llama-3-firefunction-v2",
    "google-gemma-2-2b-it",
    "ibm-granite-granite-3.3-2B-Instruct",
    "llama-cpp-rwkv-world",
    "meetkai-functionary-medium-v3.2",  # whose arguments would have to be text
    "microsoft-Phi-3.5-mini-instruct",
}
"""Templates that render no calls of an assistant."""
FIRST_ALONE = {"harmony", "gigachat3", "gigachat31"}
"""Parsers whose templates render one call of several."""
IDS = ("callid000", "callid001", "callid002")
TOOLS: list[dict[str, Any]] = [
    {
        "name": "search",
        "description": "Search",
        "parameters": {
            "type": "object",
            "properties": {
                "query": {"type": "string"},
                "filter": {"type": "object"},
                "tags": {"type": "array"},
                "limit": {"type": "integer"},
                "exact": {"type": "boolean"},
            },
        },
    },
    {"name": "now", "description": "What time it is", "parameters": {"type": "object", "properties": {}}},
]
CALLS: list[tuple[str, dict[str, Any]]] = [
    (
        "search",
        {"query": 'Zürich "東京"\n  🌦 {x} [y] c:\\d', "filter": {"a": [1, {"b": None}]}, "limit": 3, "exact": True},
    ),
    ("now", {}),
    ("search", {"query": "3", "tags": ["a, b", "c)"]}),
]


def test_the_table_has_every_template() -> None:
    assert {path.stem for path in DATA.glob("*.jinja")} == set(CHOSEN)
    assert set(CHOSEN) >= SILENT


@pytest.mark.parametrize("template", CHOSEN)
def test_the_template_chooses(template: str) -> None:
    candidates = find_parsers(ToolParserCard, "tool_parser", "auto", make_registry(*CARDS.values()), [])
    found = recognise(candidates, (DATA / f"{template}.jinja").read_text())
    assert found
    assert found.part.name == CHOSEN[template]


def turn(template: str, calls: list[tuple[str, dict[str, Any]]], content: str, ids: Sequence[str] = IDS) -> str:
    """What a template makes of an assistant's turn, and what it puts about it."""
    listed = [
        {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
        for id, (name, arguments) in zip(ids, calls, strict=False)
    ]
    text = render(
        (DATA / f"{template}.jinja").read_text(),
        [{"role": "user", "content": "QUESTION"}, {"role": "assistant", "content": content, "tool_calls": listed}],
        tools=[{"type": "function", "function": tool} for tool in TOOLS],
        add_generation_prompt=False,
        variables={"bos_token": "<s>", "eos_token": "</s>"},
    )
    return text.rpartition("QUESTION")[2]


@pytest.mark.parametrize("template", sorted(set(CHOSEN) - SILENT))
def test_what_the_template_renders_is_read_again(template: str) -> None:
    wanted = CALLS
    try:
        text = turn(template, wanted, "")
    except RequestError:  # for one call at a time
        wanted = CALLS[:1]
        text = turn(template, wanted, "")
    if CHOSEN[template] in FIRST_ALONE:
        wanted = wanted[:1]
    parser = import_dotted(CARDS[CHOSEN[template]].target)(TOOLS)
    found: list[tuple[str, str]] = []
    for event in (*parser.feed(text), *parser.finish()):
        if isinstance(event, CallBegin):
            found.append((event.name, ""))
        elif isinstance(event, CallArguments):
            found[-1] = (found[-1][0], found[-1][1] + event.text)
    if CHOSEN[template] == "minimax_m3":  # leaves out null, and what is left of an object is nothing
        wanted = [(name, json.loads(json.dumps(a).replace('{"b": null}', '""'))) for name, a in wanted]
    assert [(name, json.loads(arguments)) for name, arguments in found] == wanted


@pytest.mark.parametrize("template", ["mistralai-Mistral-Nemo-Instruct-2407", "Mistral-Small-3.2-24B-Instruct-2506"])
def test_the_template_takes_the_ids(template: str) -> None:
    made = import_dotted(CARDS[CHOSEN[template]].target).call_id(0, "now")
    assert re.fullmatch("[0-9a-zA-Z]{9}", made)
    assert f"{made}" in turn(template, [("now", {})], "", ids=[made])


def test_the_ids_of_kimi_name_the_function() -> None:
    made = import_dotted(CARDS["kimi_k2"].target).call_id(0, "now")
    assert made == "functions.now:0"
    assert f"<|tool_call_begin|>{made}<|" in turn("moonshotai-Kimi-K2", [("now", {})], "", ids=[made])
