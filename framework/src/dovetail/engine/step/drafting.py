"""Drafting for speculative decoding: which requests get draft tokens, how many, and from which proposer.
``draft_verification`` verifies them.

The next step verifies a draft (Leviathan et al., "Fast inference from transformers via speculative decoding", 2023).
The sampler samples at every draft position; each sample only depends on its seed and position. The output accepts the
draft up to the first token that differs from the sampled one. So an output is token for token the same as without
speculation, at any temperature. A draft token of probability p is accepted with probability p, as in rejection
sampling.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from dovetail.api.proposer import DraftRequest, Proposer, ProposerContext
from dovetail.engine.engine_request import Request
from dovetail.engine.kv.groups import KVCacheGroup
from dovetail.kernel.blame import accuse, blame, check_class
from dovetail.kernel.discovery import import_part
from dovetail.kernel.interrupts import reraise_interrupt
from dovetail.kernel.plan import Plan
from dovetail.kernel.plan_parts import Part
from dovetail.utils import logs

MAX_MISSES = 3
"""Consecutive drafts without an accepted token before a request pauses drafting. Prompt lookup in source code gives
1.18 tokens a step with 0.5 draft tokens; 1.23 with 0.6 without pauses, and 1.15 with 0.4 if they start after the
second miss.
"""
MAX_REST_STEPS = 32
"""Maximum number of steps of a pause, however wrong the drafts were."""


@dataclass(frozen=True)
class EngineProposerContext(ProposerContext):
    """Further context for the framework's own proposers.

    Attributes:
        draft: the model to run.
        block_size: tokens in a KV-cache block.
        max_tokens: computed in one step.
        eager: do not capture graphs.
    """

    draft: Plan | None
    block_size: int
    max_tokens: int
    eager: bool


class CachingProposer(Proposer):
    """A proposer with a KV cache. Its memory is planned together with the engine's."""

    @property
    @abstractmethod
    def groups(self) -> list[KVCacheGroup]:
        """The groups of its KV cache."""

    @property
    @abstractmethod
    def weight_bytes(self) -> int: ...

    @abstractmethod
    def activation_bytes(self) -> int:
        """Maximum memory of its steps besides weights and cache."""

    @abstractmethod
    def begin(self, counts: list[int], max_len: int) -> None:
        """Allocate a cache with the given number of blocks of each group, the null block included, for sequences of
        at most ``max_len`` tokens.
        """

    @abstractmethod
    def sleep(self, level: int) -> None:
        """Free memory, and forget every sequence; see :meth:`dovetail.engine.step.core.EngineCore.sleep`."""

    @abstractmethod
    def wake_up(self, tags: list[str] | None) -> None: ...


class DraftLengthControl:
    """Number of draft tokens for a request, adapted to how many were accepted before.

    If all draft tokens were accepted, the number doubles, up to the limit. If some were, the next number is one more
    than those. If none was, the number is halved; after :data:`MAX_MISSES` such drafts in a row drafting pauses for 1,
    3, 7, … steps, at most :data:`MAX_REST_STEPS`. So a request that cannot be predicted has one draft token in 33
    steps.
    """

    def __init__(self, max_length: int) -> None:
        self.max_length = max_length
        self.length = max_length
        self.misses = 0
        self.rest_steps = 0

    def next_length(self) -> int:
        """Number of draft tokens for the next step."""
        if self.rest_steps:
            self.rest_steps -= 1
            return 0
        return self.length

    def observe(self, right: int, wrong: bool) -> None:
        """Record a verified draft: ``right`` tokens were accepted, and ``wrong`` says whether one was rejected."""
        if right:
            self.misses = 0
            self.length = min(self.max_length, right + 1 if wrong else 2 * self.length)
        elif wrong:
            self.misses += 1
            self.length = max(1, self.length // 2)
            self.rest_steps = min(2 ** max(0, self.misses - MAX_MISSES) - 1, MAX_REST_STEPS)


@dataclass
class DraftRecord:
    """A request's last draft, and its position in the request's tokens."""

    control: DraftLengthControl
    guess: list[int]
    place: int = 0

    def record_outcome(self, tokens: Sequence[int]) -> None:
        """Compare the guess with what has come since."""
        came = tokens[self.place :]
        pairs = zip(self.guess, came, strict=False)
        first_wrong = next((place for place, (guessed, token) in enumerate(pairs) if guessed != token), None)
        if first_wrong is not None:
            self.control.observe(first_wrong, wrong=True)
        else:
            self.control.observe(min(len(self.guess), len(came)), wrong=False)
        self.guess = []


class Speculation:
    """Sets :attr:`Request.draft_token_ids` before each step.

    Args:
        num_tokens: maximum length of a draft.
        vocab_size: of the model.
        max_tokens: of one step. Drafts must not take tokens from other requests.
        part: the proposer's, for the log.
    """

    def __init__(
        self, proposer: Proposer, num_tokens: int, vocab_size: int, max_tokens: int, part: Part | None = None
    ) -> None:
        self.part = part
        self.proposer = proposer
        self.num_tokens = num_tokens
        self.vocab_size = vocab_size
        self.max_tokens = max_tokens
        self.disabled = False
        self._draft_records: dict[Request, DraftRecord] = {}

    @classmethod
    def from_plan(
        cls, plan: Plan, vocab_size: int, *, max_seqs: int, max_tokens: int, block_size: int, eager: bool
    ) -> Speculation | None:
        """Create it as the Plan says, with a draft model's weights loaded; None without speculative decoding."""
        if plan.proposer is None:
            return None
        assert plan.proposer_config_class is not None
        part = plan.proposer.part
        config_class = import_part(part, plan.proposer_config_class)
        context = EngineProposerContext(
            vocab_size=vocab_size,
            max_seqs=max_seqs,
            num_tokens=plan.num_speculative_tokens,
            draft=plan.draft,
            block_size=block_size,
            max_tokens=max_tokens,
            eager=eager,
        )
        proposer_class: type[Proposer] = import_part(part, part.target)
        check_class(part, part.target, proposer_class, Proposer)
        with blame(part, "to start"):
            config = config_class.model_validate(plan.proposer_config)
            proposer = proposer_class(config, context)
        return cls(proposer, plan.num_speculative_tokens, vocab_size, max_tokens, part)

    # -- memory

    @property
    def groups(self) -> list[KVCacheGroup]:
        return self.proposer.groups if isinstance(self.proposer, CachingProposer) else []

    @property
    def weight_bytes(self) -> int:
        return self.proposer.weight_bytes if isinstance(self.proposer, CachingProposer) else 0

    def activation_bytes(self) -> int:
        return self.proposer.activation_bytes() if isinstance(self.proposer, CachingProposer) else 0

    def begin(self, counts: list[int], max_len: int) -> None:
        """Give the proposer its share of the KV cache, if it needs one."""
        if isinstance(self.proposer, CachingProposer):
            self.proposer.begin(counts, max_len)

    def sleep(self, level: int) -> None:
        if isinstance(self.proposer, CachingProposer):
            self.proposer.sleep(level)

    def wake_up(self, tags: list[str] | None) -> None:
        if isinstance(self.proposer, CachingProposer):
            self.proposer.wake_up(tags)

    # -- drafts

    def draft(self, requests: Sequence[Request]) -> None:
        """Set the drafts of running requests for the next step. All of their tokens must have reached the host."""
        if self.disabled:
            return
        requested: list[Request] = []
        sequences: list[DraftRequest] = []
        for request in requests:
            request.draft_token_ids = []
            if most := self._max_draft_tokens(request):
                requested.append(request)
                sequences.append(DraftRequest(request.id, request.tokens, most))
        if not sequences:
            return
        try:
            guesses = self._propose(sequences)
        except BaseException as error:
            reraise_interrupt(error)
            # The device may be out of memory, or a plugin broken; either is no reason to fail requests that do not need it.
            self._turn_off(error)
            return
        # Guesses get what streams leave of a step.
        spare = self.max_tokens - len(requests)
        for request, guess in zip(requested, guesses, strict=True):
            guess = self._trim_draft(request, guess[: max(0, spare)])
            spare -= len(guess)
            request.draft_token_ids = guess
            record = self._draft_records[request]
            record.guess, record.place = guess, len(request.tokens)

    def forget(self, request: Request) -> None:
        """Drop the state of a request that has ended."""
        if self._draft_records.pop(request, None) is not None and not self.disabled:
            try:
                self.proposer.forget([request.id])
            except BaseException as error:
                reraise_interrupt(error)
                self._turn_off(error)

    def _turn_off(self, error: BaseException) -> None:
        self.disabled = True
        fault = error if self.part is None else accuse(error, self.part, "to propose tokens")
        logs.report_fault(fault, "speculative decoding is off")

    def _max_draft_tokens(self, request: Request) -> int:
        # A prompt that is not computed yet has no next token, and a preempted request must be recomputed first.
        if request.num_pending_tokens != 1 or request.num_in_flight_tokens:
            return 0
        # Its logits processors may count tokens, and could not undo those of a rejected draft.
        if request.logits_processors:
            return 0
        # The step adds its own token to the draft.
        room = request.max_len - request.num_tokens - 1
        if room <= 0:
            return 0
        record = self._draft_records.get(request)
        if record is None:
            record = self._draft_records[request] = DraftRecord(DraftLengthControl(self.num_tokens), [])
        elif record.guess:
            record.record_outcome(request.tokens)
        return min(record.control.next_length(), room)

    def _propose(self, sequences: Sequence[DraftRequest]) -> list[list[int]]:
        guesses = self.proposer.propose(sequences)
        if not isinstance(guesses, list):
            raise TypeError(f"{type(guesses).__name__} proposed, wanted a list with the tokens of each sequence")
        if len(guesses) != len(sequences):
            raise ValueError(f"{len(guesses)} guesses for {len(sequences)} sequences")
        for sequence, guess in zip(sequences, guesses, strict=True):
            if len(guess) > sequence.max_tokens:
                raise ValueError(f"{len(guess)} tokens guessed where at most {sequence.max_tokens} were asked for")
            for token in guess:
                if not 0 <= token < self.vocab_size:
                    raise ValueError(f"token {token} guessed with a vocabulary of {self.vocab_size}")
        return guesses

    def _trim_draft(self, request: Request, guess: list[int]) -> list[int]:
        """Cut a draft at tokens that cannot be accepted (grammar, min_tokens) and after a token that ends the
        output.
        """
        for count, token in enumerate(guess):
            if token in request.end_token_ids:
                # Before its min_tokens, a token that would end the output cannot be drawn.
                ends = request.num_output_tokens + count + 1 > request.params.min_tokens
                guess = guess[: count + ends]
                break
        if request.grammar is not None and guess:
            guess = guess[: request.grammar.valid_prefix(guess)]
            request.grammar.prefetch(guess)
        return guess
