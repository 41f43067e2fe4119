"""Sampling parameters: what a request asks of the sampler and of the end of its text."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from dovetail.api.errors import RequestError

MAX_SEED = 2**63 - 1
MAX_TOP_K = 2**31 - 1

INTEGERS = ("n", "top_k", "seed", "max_tokens", "min_tokens")
NUMBERS = ("temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty")
OPTIONAL = ("seed", "max_tokens")
"""Parameters that may be None."""


class SamplingParams(msgspec.Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """How to choose tokens, and when to stop.

    Args:
        n: completions of each prompt.
        temperature: 0 takes the likeliest token always; otherwise logits are divided by it.
        top_k: only the k likeliest tokens; 0 or -1 for all.
        top_p: only the likeliest tokens whose probabilities sum to p.
        min_p: only tokens at least this fraction as likely as the likeliest.
        presence_penalty: subtracted from the logits of tokens that the output already holds.
        frequency_penalty: the same, for each time that the output holds them.
        repetition_penalty: divides the positive logits, and multiplies the negative ones, of tokens that prompt or output hold.
        seed: makes the request's draws repeatable, alone or in a batch.
        stop: texts that end the output when they appear.
        stop_token_ids: tokens that end the output.
        include_stop_str_in_output: keep the text that ended the output.
        ignore_eos: go on past the end-of-sequence token.
        max_tokens: at most so many tokens; None for what the context leaves.
        min_tokens: at least so many tokens before end-of-sequence or a stop token may be chosen.
        skip_special_tokens: leave special tokens out of the text.

    Raises:
        RequestError: a value is out of its range; names the parameter.
    """

    n: int = 1
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: list[str] = []
    stop_token_ids: list[int] = []
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    skip_special_tokens: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            self.stop = [self.stop]
        for name in ("stop", "stop_token_ids"):
            value = getattr(self, name)
            self._check(name, value, value is None or isinstance(value, (list, tuple)), "a list")
            setattr(self, name, list(value or []))
        for names, kind, wanted in ((INTEGERS, int, "a whole number"), (NUMBERS, (int, float), "a number")):
            for name in names:
                value = getattr(self, name)
                fits = isinstance(value, kind) and not isinstance(value, bool)
                self._check(name, value, fits or (value is None and name in OPTIONAL), wanted)
        if self.top_k == -1:
            self.top_k = 0
        self._check("n", self.n, self.n >= 1, "at least 1")
        self._check("temperature", self.temperature, 0 <= self.temperature <= 100, "between 0 and 100")
        self._check("top_k", self.top_k, 0 <= self.top_k <= MAX_TOP_K, f"-1, 0 or a number up to {MAX_TOP_K}")
        self._check("top_p", self.top_p, 0 < self.top_p <= 1, "in (0, 1]")
        self._check("min_p", self.min_p, 0 <= self.min_p <= 1, "in [0, 1]")
        for name in ("presence_penalty", "frequency_penalty"):
            value = getattr(self, name)
            self._check(name, value, -2 <= value <= 2, "between -2 and 2")
        self._check("repetition_penalty", self.repetition_penalty, 0 < self.repetition_penalty <= 100, "in (0, 100]")
        if self.seed is not None:
            self._check("seed", self.seed, -MAX_SEED <= self.seed <= MAX_SEED, "a 64-bit integer")
        if self.max_tokens is not None:
            self._check("max_tokens", self.max_tokens, self.max_tokens >= 1, "at least 1")
        self._check("min_tokens", self.min_tokens, self.min_tokens >= 0, "0 or more")
        if self.max_tokens is not None:
            self._check(
                "min_tokens",
                self.min_tokens,
                self.min_tokens <= self.max_tokens,
                f"at most max_tokens ({self.max_tokens})",
            )
        self._check("stop", self.stop, all(isinstance(s, str) and s for s in self.stop), "non-empty texts")
        ids_fit = all(isinstance(t, int) and t >= 0 for t in self.stop_token_ids)
        self._check("stop_token_ids", self.stop_token_ids, ids_fit, "token ids")

    @staticmethod
    def _check(name: str, value: Any, fits: bool, wanted: str) -> None:
        finite = not isinstance(value, float) or math.isfinite(value)
        if not (fits and finite):
            raise RequestError(f"{name} is {value!r}, wanted {wanted}", param=name)

    @property
    def greedy(self) -> bool:
        return self.temperature < 1e-5

    @property
    def penalised(self) -> bool:
        """Whether the sampler must know which tokens came before."""
        return bool(self.presence_penalty or self.frequency_penalty) or self.repetition_penalty != 1.0
