"""The whole sampler against the slow one, over batches of every mixture."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from .reference import make_request, possible, step

# Tokens for parameters; the vocabulary has at least as many.
TOKENS = st.integers(0, 19)


@st.composite
def requests(draw: Any) -> Any:
    params: dict[str, Any] = {"temperature": draw(st.sampled_from([0.0, 0.3, 1.0, 1.0, 1.7]))}
    for name, values in {
        "top_k": st.sampled_from([-1, 1, 2, 7, 40, 64, 65, 150, 10**6]),
        "top_p": st.sampled_from([0.01, 0.5, 0.9, 0.999]),
        "min_p": st.sampled_from([0.001, 0.1, 1.0]),
        "repetition_penalty": st.sampled_from([0.5, 1.3]),
        "presence_penalty": st.sampled_from([-0.7, 1.1]),
        "frequency_penalty": st.sampled_from([-0.2, 0.9]),
        "logit_bias": st.dictionaries(TOKENS, st.sampled_from([-100.0, -1.0, 2.5, 100.0]), min_size=1, max_size=3),
        "allowed_token_ids": st.lists(TOKENS, min_size=6, max_size=9, unique=True),
        "min_tokens": st.integers(1, 5),
        "stop_token_ids": st.lists(TOKENS, min_size=1, max_size=2),
        "logprobs": st.integers(0, 3),
        "bad_words": st.lists(st.lists(TOKENS, min_size=1, max_size=3), min_size=1, max_size=2),
    }.items():
        if draw(st.integers(0, 3)) == 0:
            params[name] = draw(values)
    prompt = draw(st.lists(TOKENS, min_size=1, max_size=6))
    output = draw(st.lists(TOKENS, max_size=6))
    return make_request(prompt, output, seed=draw(st.integers(-(2**63) + 1, 2**63 - 1)), **params)


@settings(max_examples=150, deadline=None)
@given(
    batch=st.lists(requests(), min_size=1, max_size=6),
    vocabulary=st.sampled_from([20, 50, 128, 200, 9000]),
    coarse=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    number=st.integers(0, 10**6),
)
def test_every_token_is_the_one_that_the_reference_chooses(
    batch: Any, vocabulary: int, coarse: bool, dtype: torch.dtype, number: int
) -> None:
    logits = torch.randn(len(batch), vocabulary, generator=torch.Generator().manual_seed(number)) * 3
    if coarse:
        logits = logits.round()  # many equal ones
    logits = logits.to(dtype)
    tokens = step(logits, batch).tokens.tolist()
    wanted = [possible(line, request) for line, request in zip(logits.float().numpy(), batch, strict=True)]
    assert all(token in some for token, some in zip(tokens, wanted, strict=True)), (tokens, wanted)


def test_the_reference_seldom_leaves_a_choice() -> None:
    logits = torch.randn(400, 200, generator=torch.Generator().manual_seed(0)).numpy() * 3
    sizes = [len(possible(line, make_request(seed=i, top_p=0.9))) for i, line in enumerate(logits)]
    assert np.mean(np.array(sizes) == 1) > 0.98
