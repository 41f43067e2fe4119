"""Families of models in the whole engine: greedy tokens and vectors against transformers, over tiny random checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dovetail import LLM, SamplingParams
from dovetail.api import ResolutionError

from ..tiny import write_tokenizer

transformers = pytest.importorskip("transformers")

VOCABULARY = 256
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    # Large enough that likeliest tokens differ clearly, and greedy decoding does not hang on rounding.
    "initializer_range": 0.3,
    "attn_implementation": "eager",
}
GPT2 = {"vocab_size": VOCABULARY, "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 256, "initializer_range": 0.3}
CAPS = {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 20.0, "query_pre_attn_scalar": 16}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma": ("GemmaForCausalLM", {**SHAPE, "head_dim": 16, "num_key_value_heads": 1}),
    "gemma2": (
        "Gemma2ForCausalLM",
        {**SHAPE, **CAPS, "head_dim": 16, "num_key_value_heads": 2, "sliding_window": 24},
    ),
    "gpt2": ("GPT2LMHeadModel", {**GPT2, "attn_implementation": "eager"}),
    "phi": ("PhiForCausalLM", SHAPE),
}
PROMPTS = [[(7 * i + n) % VOCABULARY for i in range(n)] for n in (1, 12, 60)]
TOKENS = 8


def write(folder: Path, name: str, config: dict[str, Any]) -> Any:
    """A random model, as transformers saves it."""
    torch.manual_seed(3)
    cls = getattr(transformers, name)
    model = cls(cls.config_class(**config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return model


@torch.inference_mode()
def greedy(model: Any, prompt: list[int]) -> list[int]:
    tokens = list(prompt)
    for _ in range(TOKENS):
        tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[len(prompt) :]


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_are_those_of_transformers(family: str, tmp_path: Path) -> None:
    theirs = write(tmp_path, *FAMILIES[family])
    llm = LLM(str(tmp_path), dtype="float32", use_tqdm=False, block_size=8, max_num_batched_tokens=32)
    params = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True)
    found = llm.generate([{"prompt_token_ids": prompt} for prompt in PROMPTS], params)
    assert [list(output.outputs[0].token_ids) for output in found] == [greedy(theirs, prompt) for prompt in PROMPTS]


def test_vectors_of_an_encoder_are_those_of_transformers(tmp_path: Path) -> None:
    theirs = write(tmp_path, "BertModel", SHAPE)
    llm = LLM(str(tmp_path), dtype="float32", use_tqdm=False)
    found = llm.embed([{"prompt_token_ids": prompt} for prompt in PROMPTS])
    for output, prompt in zip(found, PROMPTS, strict=True):
        with torch.inference_mode():
            first = theirs(torch.tensor([prompt])).last_hidden_state[0, 0]
        wanted = torch.nn.functional.normalize(first, dim=0)
        torch.testing.assert_close(torch.tensor(output.outputs.embedding), wanted, rtol=0, atol=1e-4)


def test_labels_of_a_classifier_are_those_of_transformers(tmp_path: Path) -> None:
    theirs = write(tmp_path, "BertForSequenceClassification", {**SHAPE, "num_labels": 3})
    llm = LLM(str(tmp_path), dtype="float32", use_tqdm=False)
    found = llm.classify([{"prompt_token_ids": prompt} for prompt in PROMPTS])
    for output, prompt in zip(found, PROMPTS, strict=True):
        with torch.inference_mode():
            wanted = theirs(torch.tensor([prompt])).logits[0].softmax(-1)
        torch.testing.assert_close(torch.tensor(output.outputs.probs), wanted, rtol=0, atol=1e-4)


def test_an_encoder_does_not_generate(tmp_path: Path) -> None:
    write(tmp_path, "BertModel", SHAPE)
    with pytest.raises(ResolutionError, match="generate"):
        LLM(str(tmp_path), runner="generate", use_tqdm=False)
