"""The prompts of a serving benchmark."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from dovetail.api.errors import UsageError
from dovetail.api.text import read_text
from dovetail.client.bench.options import ServeOptions

TEXT = (
    "time year people way day man thing woman life child world school state family student group country problem hand part place case week "
    "company system program question work government number night point home water room mother area money story fact month lot right study "
    "book eye job word business issue side kind head house service friend father power hour game line end member law car city name"
)
WORDS = TEXT.split()
"""Common words. Most vocabularies have each of them as one token."""
MIN_TOKENS, MAX_PROMPT_TOKENS, MAX_TOKENS = 4, 1024, 2048
"""Limits of tokens; other conversations of ShareGPT are skipped, as in vLLM's benchmark."""

CountTokens = Callable[[str], Awaitable[int]]


@dataclass(frozen=True, slots=True)
class Sample:
    """One request of a benchmark.

    Attributes:
        prompt: a text, or token ids.
        input_len: number of its tokens, if known beforehand; the report uses the server's own count.
        output_len: number of tokens to generate.
    """

    prompt: str | list[int]
    input_len: int
    output_len: int


async def load_samples(options: ServeOptions, count_tokens: CountTokens) -> tuple[list[Sample], Sample]:
    """The requests of a dataset, and one more for warming up.

    Args:
        count_tokens: asks the server for the length of a text.

    Raises:
        UsageError: the file does not exist, has another format, or holds too few prompts.
    """
    if options.dataset_name == "random":
        found = random_samples(options, options.num_prompts + 1)
        return found[:-1], found[-1]
    warm_up = Sample(" ".join(WORDS[:16]), 16, 16)
    if options.dataset_name == "custom":
        return custom_samples(options), warm_up
    return await sharegpt_samples(options, count_tokens), warm_up


def random_samples(options: ServeOptions, count: int) -> list[Sample]:
    """Random token ids; for the chat route, which accepts none, random words."""
    rng = np.random.default_rng(options.seed)
    inputs = _lengths(rng, options.random_input_len, options.random_range_ratio, count)
    outputs = _lengths(rng, options.random_output_len, options.random_range_ratio, count)
    # The lowest ids are bytes and special tokens in most vocabularies.
    lowest, end = options.random_vocab_size // 32, options.random_vocab_size
    samples = []
    for tokens, wanted in zip(inputs, outputs, strict=True):
        prompt: str | list[int]
        if options.is_chat:
            prompt = " ".join(rng.choice(WORDS, tokens))
        else:
            prompt = rng.integers(lowest, end, tokens).tolist()
        samples.append(Sample(prompt, tokens, wanted))
    return samples


def _lengths(rng: np.random.Generator, middle: int, ratio: float, count: int) -> list[int]:
    low, high = max(int(middle * (1 - ratio)), 1), int(middle * (1 + ratio))
    lengths: list[int] = rng.integers(low, high + 1, count).tolist()
    return lengths


def custom_samples(options: ServeOptions) -> list[Sample]:
    """The first lines of a JSON Lines file.

    Raises:
        UsageError: as :func:`load_samples`.
    """
    samples = []
    lines = (line for line in _text(options).splitlines() if line.strip())
    for number, line in zip(range(1, options.num_prompts + 1), lines, strict=False):
        try:
            value = json.loads(line)
            samples.append(
                Sample(_prompt(value["prompt"]), 0, int(value.get("output_tokens", options.custom_output_len)))
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            message = f"line {number} of {options.dataset_path} is no JSON object with a text named prompt"
            raise UsageError(message, 'write lines like {"prompt": "…", "output_tokens": 64}') from None
    return _require_count(samples, options)


def _prompt(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError
    return value


async def sharegpt_samples(options: ServeOptions, count_tokens: CountTokens) -> list[Sample]:
    """The first questions of random conversations, with the lengths of their recorded answers.

    Raises:
        UsageError: as :func:`load_samples`.
    """
    try:
        conversations = [
            [str(turn["value"]) for turn in entry["conversations"][:2]] for entry in json.loads(_text(options))
        ]
    except (ValueError, KeyError, TypeError):
        raise UsageError(
            f"{options.dataset_path} is not ShareGPT's JSON",
            'wanted [{"conversations": [{"from": …, "value": …}, …]}, …]',
        ) from None
    rng = np.random.default_rng(options.seed)
    samples: list[Sample] = []
    for turns in _shuffled(conversations, rng):
        if len(samples) == options.num_prompts:
            break
        if len(turns) < 2:
            continue
        tokens = await count_tokens(turns[0])
        wanted = options.sharegpt_output_len or await count_tokens(turns[1])
        short = tokens < MIN_TOKENS or wanted < MIN_TOKENS
        if not short and tokens <= MAX_PROMPT_TOKENS and tokens + wanted <= MAX_TOKENS:
            samples.append(Sample(turns[0], tokens, wanted))
    return _require_count(samples, options)


def _shuffled(values: list[list[str]], rng: np.random.Generator) -> Iterator[list[str]]:
    return (values[i] for i in rng.permutation(len(values)))


def _text(options: ServeOptions) -> str:
    assert options.dataset_path is not None
    try:
        return read_text(options.dataset_path, pipes=True)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"cannot read {options.dataset_path}: {reason}", "correct --dataset-path") from None


def _require_count(samples: list[Sample], options: ServeOptions) -> list[Sample]:
    # Prompts that came twice would be found in the prefix cache, and measure that.
    if len(samples) < options.num_prompts:
        raise UsageError(
            f"--num-prompts is {options.num_prompts}, and {options.dataset_path} has {len(samples)} that can be used",
            "lower it",
        )
    return samples
