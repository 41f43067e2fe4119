"""Beam search: finds the likeliest completions with a search of bounded width.

At every step each beam is extended by its likeliest tokens, and the best extensions continue (Lowerre, 1976; with the
length penalty of transformers, whose lengths are those of the output without its prompt). A beam that ends in an
end-of-sequence token is stored as finished, and no longer counts as a beam.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from dovetail.engine.request.outputs import PositionLogprobs
from dovetail.engine.request.params import BeamSearchParams, SamplingParams


@dataclass(slots=True)
class BeamSearchSequence:
    """One sequence of a beam search.

    Attributes:
        tokens: of prompt and output.
        cum_logprob: sum of the logprobs of the output's tokens.
        logprobs: one entry for each token of the output: that token, and the likeliest ones.
        text: of prompt and output.
        finish_reason: ``stop`` for an end-of-sequence token, or ``length``.
    """

    tokens: list[int]
    cum_logprob: float = 0.0
    logprobs: list[PositionLogprobs] = field(default_factory=list, repr=False)
    text: str | None = None
    finish_reason: str | None = None


@dataclass(slots=True)
class BeamSearchOutput:
    """The results of one prompt.

    Attributes:
        sequences: at most ``beam_width``, best first.
    """

    sequences: list[BeamSearchSequence]


def build_step_params(
    params: BeamSearchParams, eos_ids: Collection[int], vocab_size: int, *, detokenize: bool
) -> SamplingParams:
    """Sampling parameters for one step of each beam: one token, and the logprobs of the likeliest.

    There are twice as many logprobs as beams, so that every beam can continue in ``beam_width`` ways even if all
    end-of-sequence tokens are likelier.
    """
    wanted = params.beam_width + max(params.beam_width, len(eos_ids))
    return SamplingParams(
        temperature=0, max_tokens=1, ignore_eos=True, logprobs=min(wanted, vocab_size), detokenize=detokenize
    )


class BeamSearch:
    """The beam search of one prompt. The caller gets the logprobs after each of :attr:`beams`, and passes them to
    :meth:`extend`.

    Args:
        eos_ids: end-of-sequence tokens.
        max_model_len: maximum number of tokens of prompt and output together.

    Attributes:
        beams: the running beams; empty once the search is over.
    """

    def __init__(
        self, prompt_token_ids: Sequence[int], params: BeamSearchParams, eos_ids: Collection[int], max_model_len: int
    ) -> None:
        self._prompt_len = len(prompt_token_ids)
        self._params = params
        self._eos_ids = frozenset() if params.ignore_eos else frozenset(eos_ids)
        self._max_output_len = min(params.max_tokens, max_model_len - self._prompt_len)
        self._completed: list[BeamSearchSequence] = []
        self.beams = [BeamSearchSequence(list(prompt_token_ids))]

    def extend(self, found: Sequence[PositionLogprobs]) -> None:
        """Extend all beams by one token.

        Args:
            found: for each of :attr:`beams`, the logprobs of the tokens that may follow.
        """
        candidates = [
            (beam.cum_logprob + entry.logprob, beam, token, position)
            for beam, position in zip(self.beams, found, strict=True)
            for token, entry in position.items()
        ]
        candidates.sort(key=lambda candidate: -candidate[0])  # all have the same length, so the penalty changes nothing
        going_on: list[BeamSearchSequence] = []
        for total, beam, token, position in candidates:
            if token in self._eos_ids:
                self._completed.append(_extend_beam(beam, token, total, position, "stop"))
            elif len(going_on) < self._params.beam_width:
                going_on.append(_extend_beam(beam, token, total, position, None))
        self._completed = self.best()
        self.beams = going_on
        if going_on and len(going_on[0].tokens) - self._prompt_len >= self._max_output_len:
            for beam in going_on:
                beam.finish_reason = "length"
            self._completed += going_on
            self.beams = []
        elif self._is_finished():
            self.beams = []

    def best(self) -> list[BeamSearchSequence]:
        """The best finished sequences."""
        return sorted(self._completed, key=self.score, reverse=True)[: self._params.beam_width]

    def score(self, beam: BeamSearchSequence) -> float:
        return self._apply_length_penalty(beam.cum_logprob, len(beam.tokens) - self._prompt_len)

    def _apply_length_penalty(self, cum_logprob: float, length: int) -> float:
        return cum_logprob / float(length) ** self._params.length_penalty

    def _is_finished(self) -> bool:
        """Whether no running beam can still beat the finished ones.

        The sum of logprobs only decreases. The divisor grows or shrinks with the length, so the shortest and the
        longest length bound the score.
        """
        if len(self._completed) < self._params.beam_width:
            return False
        worst = self.score(self._completed[-1])
        shortest = len(self.beams[0].tokens) - self._prompt_len + 1 if self.beams else 1
        return all(
            max(self._apply_length_penalty(beam.cum_logprob, length) for length in (shortest, self._max_output_len))
            <= worst
            for beam in self.beams
        )


def _extend_beam(
    beam: BeamSearchSequence, token: int, total: float, position: PositionLogprobs, finish_reason: str | None
) -> BeamSearchSequence:
    return BeamSearchSequence([*beam.tokens, token], total, [*beam.logprobs, position], finish_reason=finish_reason)
