"""The conformance kit on every card, with the outputs in ``corpus``."""

from __future__ import annotations

from pathlib import Path

import dovetail_parsers_reasoning
import pytest

from dovetail.api import ReasoningParserCard
from dovetail.testing import check_reasoning_parser, check_registration, read_reasoning_samples

CARDS = dovetail_parsers_reasoning.dovetail_register_parsers()
OWN = [card for card in CARDS if card.name not in sum(dovetail_parsers_reasoning.ALIASES.values(), ())]
CORPUS = Path(__file__).parent / "corpus"
VLLM = (
    "cohere_command3 cohere_command4 deepseek_r1 deepseek_v3 deepseek_v4 ernie45 gemma4 glm45 glm47 granite holo2 hunyuan_a13b hy_v3 inkling kimi_k2 kimi_k3 ling3 mimo "
    "minimax_m2 minimax_m3 mistral muse_glimmer nemotron_v3 olmo3 openai_gptoss poolside_v1 qwen3 seed_oss solar_open2 step3 step3p5"
)
"""The names that vLLM has for ``--reasoning-parser``, but one that leaves the thoughts in the answer, and one whose marks end otherwise in each checkpoint."""


def test_names_of_vllm() -> None:
    assert set(VLLM.split()) <= {card.name for card in CARDS}


def test_registration() -> None:
    check_registration(dovetail_parsers_reasoning)


@pytest.mark.parametrize("card", OWN, ids=lambda card: card.name)
def test_every_claim(card: ReasoningParserCard) -> None:
    samples = read_reasoning_samples(CORPUS / f"{card.name}.json")
    assert len(samples) >= 8
    assert all(sample.source for sample in samples)
    check_reasoning_parser(card, samples)
