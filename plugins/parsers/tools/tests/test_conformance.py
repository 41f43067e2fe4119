"""The conformance kit on every card, with the outputs in ``corpus``."""

from __future__ import annotations

from pathlib import Path

import dovetail_parsers_tools
import pytest

from dovetail.api import ToolParserCard
from dovetail.testing import check_registration, check_tool_parser, read_tool_samples

CARDS = dovetail_parsers_tools.dovetail_register_parsers()
OWN = [card for card in CARDS if card.name not in sum(dovetail_parsers_tools.ALIASES.values(), ())]
CORPUS = Path(__file__).parent / "corpus"
VLLM = (
    "apertus cohere_command3 cohere_command4 deepseek_v3 deepseek_v31 deepseek_v32 deepseek_v4 dots ernie45 functiongemma gemma4 gigachat3 glm45 glm47 granite "
    "granite-20b-fc granite4 hermes hunyuan_a13b hy_v3 inkling internlm jamba kimi_k2 kimi_k3 lfm2 ling3 llama3_json llama4_json llama4_pythonic longcat mimo minicpm5 "
    "minimax minimax_m2 minimax_m3 mistral muse_glimmer olmo3 openai phi4_mini_json poolside_v1 pythonic qwen3_coder qwen3_xml seed_oss solar_open2 step3 step3p5 xlam"
)
"""The names that vLLM has for ``--tool-call-parser``, but one whose marks end otherwise in each checkpoint."""


def test_names_of_vllm() -> None:
    assert set(VLLM.split()) <= {card.name for card in CARDS}


def test_registration() -> None:
    check_registration(dovetail_parsers_tools)


@pytest.mark.parametrize("card", OWN, ids=lambda card: card.name)
def test_every_claim(card: ToolParserCard) -> None:
    samples = read_tool_samples(CORPUS / f"{card.name}.json")
    assert len(samples) >= 8
    assert all(sample.source for sample in samples)
    check_tool_parser(card, samples)
