"""Beam search through the whole engine, against transformers' own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dovetail import LLM, BeamSearchParams

from ..tiny import CONFIG, write_checkpoint

WIDTH, TOKENS = 4, 12


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def llm(checkpoint: Path) -> LLM:
    return LLM(str(checkpoint), dtype="float32", use_tqdm=False)


@pytest.fixture(scope="module")
def reference(checkpoint: Path) -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()


def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(255, (n,), generator=generator).tolist() for n in (1, 7, 16, 33)]


def theirs(reference: Any, prompt: list[int], eos: int | None, penalty: float) -> tuple[list[list[int]], list[float]]:
    with torch.inference_mode():
        found = reference.generate(
            torch.tensor([prompt]),
            max_new_tokens=TOKENS,
            num_beams=WIDTH,
            num_return_sequences=WIDTH,
            do_sample=False,
            early_stopping="never",
            length_penalty=penalty,
            eos_token_id=eos,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_scores=True,
        )
    return found.sequences.tolist(), found.sequences_scores.tolist()


@pytest.mark.parametrize("penalty", [1.0, 0.5, 2.0])
def test_without_ends_the_sequences_are_those_of_transformers(llm: LLM, reference: Any, penalty: float) -> None:
    params = BeamSearchParams(WIDTH, TOKENS, ignore_eos=True, length_penalty=penalty)
    for prompt, output in zip(prompts(), llm.beam_search(prompts(), params), strict=True):
        sequences, scores = theirs(reference, prompt, None, penalty)
        assert [s.tokens for s in output.sequences] == sequences
        ours = [s.cum_logprob / TOKENS**penalty for s in output.sequences]
        assert ours == pytest.approx(scores, abs=1e-4)


@pytest.mark.parametrize("penalty", [1.0, 0.0])
def test_with_ends_the_best_sequence_is_no_worse_than_that_of_transformers(
    tmp_path: Path, reference: Any, penalty: float
) -> None:
    """The end of a sequence is a token that the model likes, so that searches meet it.

    transformers drops an end that is not among the best ``WIDTH`` extensions of its step, which here (as in vLLM) may still win. With a penalty of 0
    nothing is gained by length, and such short outputs do win.
    """
    (greedy,) = LLM(str(write_checkpoint(tmp_path / "a")), dtype="float32", use_tqdm=False).beam_search(
        [prompts()[2]], BeamSearchParams(1, TOKENS, ignore_eos=True)
    )
    eos = greedy.sequences[0].tokens[-4]
    folder = write_checkpoint(tmp_path / "b", eos_token_id=eos)
    assert CONFIG["eos_token_id"] != eos
    llm = LLM(str(folder), dtype="float32", use_tqdm=False)
    ended = 0
    for prompt, output in zip(
        prompts(), llm.beam_search(prompts(), BeamSearchParams(WIDTH, TOKENS, length_penalty=penalty)), strict=True
    ):
        sequences, scores = theirs(reference, prompt, eos, penalty)
        best = output.sequences[0]
        length = len(best.tokens) - len(prompt)
        score = best.cum_logprob / length**penalty
        if penalty:
            assert score == pytest.approx(scores[0], abs=1e-4)
            assert sequences[0][: len(best.tokens)] == best.tokens
        else:
            assert score >= scores[0] - 1e-4
        ended += any(s.finish_reason == "stop" for s in output.sequences)
    assert ended


def test_beams_find_their_beginnings_in_the_prefix_cache(llm: LLM) -> None:
    long = torch.randint(255, (200,), generator=torch.Generator().manual_seed(9)).tolist()
    llm.reset_prefix_cache()
    before = llm._core.stats
    llm.beam_search([long], BeamSearchParams(WIDTH, TOKENS, ignore_eos=True))
    after = llm._core.stats
    found = after.prefix_hits - before.prefix_hits
    computed = after.prompt_tokens - before.prompt_tokens - found
    # One prompt, and for each beam of each later step no more than its last blocks.
    assert computed < len(long) + WIDTH * TOKENS * 2 * llm.args.block_size
