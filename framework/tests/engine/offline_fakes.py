"""An engine core that is a few lines: one step gives one token to every sequence, of a distribution that the last tokens decide."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import tokenizers

from dovetail.engine.args import EngineArgs
from dovetail.engine.messages import NewRequest, TokenLogprobs, TokenOutput
from dovetail.engine.request.checks import ModelLimits, check_request
from dovetail.engine.text.tokenizer import Tokenizer

VOCAB = 16
EOS = 15
CONTEXT = 32


def distribution(tokens: Sequence[int], seed: int = 0) -> list[float]:
    """Logprobs of the tokens that may follow; some are far likelier than others."""
    rng = random.Random(repr((seed, tokens[-3:])))
    weights = [rng.random() ** 4 + 1e-6 for _ in range(VOCAB)]
    total = sum(weights)
    return [math.log(weight / total) for weight in weights]


def ranking(logprobs: Sequence[float]) -> list[int]:
    return sorted(range(len(logprobs)), key=lambda token: -logprobs[token])


def fake_plan(**changes: Any) -> Any:
    checkpoint = SimpleNamespace(generation_config=changes.pop("generation_config", {}), tokenizer_path=None)
    plan = {
        "processor": None,
        "model": "fake",
        "architecture": "Fake",
        "tasks": ("generate",),
        "tasks_reason": "what it was made for",
        "pooling": None,
        "config": {"eos_token_id": EOS},
        "checkpoint": checkpoint,
        "grammar": None,
        "grammar_validate": None,
        "grammar_kinds": (),
    }
    return SimpleNamespace(**{**plan, **changes})


def fake_tokenizer() -> Tokenizer:
    """A letter a token."""
    vocabulary = {chr(ord("a") + i): i for i in range(VOCAB)}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    return Tokenizer(backend, chat_template="{% for m in messages %}{{ m.content }}{% endfor %}")


class FakeCore:
    """Attributes:
    seen: every request that was added.
    lag: steps that give nothing before a token comes, as where steps overlap.
    """

    lag = 1
    fail_at: int | None = None

    def __init__(self, plan: Any, args: EngineArgs, progress: Any = None) -> None:
        self.args = args
        self.max_model_len = CONTEXT
        self.vocab_size = VOCAB
        self.limits = ModelLimits(CONTEXT, VOCAB, args.max_logprobs)
        self.runner = SimpleNamespace(platform=SimpleNamespace(release=lambda: None))
        self.is_sleeping = False
        self.stalled = False
        self.seen: list[NewRequest] = []
        self.requests: dict[str, tuple[NewRequest, list[int]]] = {}
        self.calls: list[tuple[Any, ...]] = []
        self.steps = 0

    def add(self, new: NewRequest) -> None:
        check_request(new.prompt_token_ids, new.params, self.limits, new.bad_words)
        for sequence in new.split():
            self.seen.append(sequence)
            self.requests[sequence.id] = sequence, list(sequence.prompt_token_ids)

    def abort(self, ids: Iterable[str]) -> None:
        for id in ids:
            self.requests.pop(id, None)

    def step(self) -> list[TokenOutput]:
        self.steps += 1
        if self.steps == self.fail_at:
            raise KeyboardInterrupt
        if self.steps % (self.lag + 1):
            return []
        return [self._token(*entry) for entry in list(self.requests.values())]

    def _token(self, new: NewRequest, tokens: list[int]) -> TokenOutput:
        params = new.params
        logprobs = distribution(tokens)
        likeliest = ranking(logprobs)
        # Completions of one request differ by their number alone.
        token = likeliest[int(new.id.partition("#")[2])]
        first = len(tokens) == len(new.prompt_token_ids)
        tokens.append(token)
        output = TokenOutput(new.id, [token], cached_tokens=3 if first else 0)
        if params.logprobs is not None:
            ids = [token, *likeliest[: params.logprobs]]
            output.logprobs = [TokenLogprobs(ids, [logprobs[i] for i in ids], likeliest.index(token) + 1)]
        made = len(tokens) - len(new.prompt_token_ids)
        if token == EOS and not params.ignore_eos:
            output.finish_reason = "stop"
        elif len(tokens) >= CONTEXT or (params.max_tokens is not None and made >= params.max_tokens):
            output.finish_reason = "length"
        if output.finish_reason:
            del self.requests[new.id]
        return output

    def reset_prefix_cache(self) -> bool:
        self.calls.append(("reset_prefix_cache",))
        return True

    def sleep(self, level: int) -> None:
        self.calls.append(("sleep", level))
        self.is_sleeping = True

    def wake_up(self, tags: list[str] | None) -> None:
        self.calls.append(("wake_up", tags))
        self.is_sleeping = False
