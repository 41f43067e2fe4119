"""Counts of earlier tokens for requests with penalties, on the device.

A penalty only changes the scores of tokens in the text. So a slot has a list of the tokens of its text besides the
counts by token, and a step changes as many scores as the longest of these texts has tokens, whatever the size of the
vocabulary: 0.5 ms instead of 10 for 64 lines of 49,152 tokens after 200, on one thread of a CPU. Each score is computed
from that token's count only. So a list may hold a token twice, a token that is not in the text, or one of the slot's
previous request; and a text too long for a list gets the same scores, bit for bit, from the counts.

A slot takes 6 bytes for each token of the vocabulary at most: 4 for counts, 1 for prompts, and up to 1 for the list.
That is 188 MiB for 256 requests and 128,256 tokens. Slots are allocated when requests with penalties arrive, and lists
are as long as their texts need.

Letters: L lines, V vocabulary, P slots, T tokens in a list, D draft tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dovetail.engine.engine_request import Request
from dovetail.engine.sampling.slots import SlotTable, Upload

LIST_SHARE = 4
"""Lists hold texts up to a fourth of the vocabulary. For longer texts, a pass over all counts is faster than looking up
each token.
"""

SCORES_PER_CHUNK = 1 << 20
"""Scores that are processed at a time, because several copies of them are made. This many fit into a CPU's caches."""


class Penalties(NamedTuple):
    """Penalties of lines, float32 ``[L, 1]`` each; None if no line of the step has this penalty.

    Attributes:
        repetition: on prompt and output (Keskar et al., 2019); 1 changes nothing.
        presence, frequency: on the output, once and for each time; 0 changes nothing.
    """

    repetition: Tensor | None
    presence: Tensor | None
    frequency: Tensor | None

    def apply(self, scores: Tensor, counts: Tensor, prompts: Tensor) -> Tensor:
        """The penalised scores, given each token's count in the output and whether the prompt holds it; float32,
        float32 and bool ``[L, N]``.
        """
        had = counts.clamp(max=1)
        if self.repetition is not None:
            # Arithmetic that rounds nowhere but in the penalty itself, since torch.where takes 25 times as long as a product on a CPU.
            seen = had.maximum(prompts.float())
            factor = (seen * self.repetition).add_(1 - seen)
            scores = (scores.clamp(min=0) / factor).add_(scores.clamp(max=0).mul_(factor))
        if self.frequency is not None:
            scores = scores - counts * self.frequency
        if self.presence is not None:
            scores = scores - had.mul_(self.presence)
        return scores

    def select_lines(self, some: slice) -> Penalties:
        """The penalties of some of the lines."""
        return Penalties(*(None if values is None else values[some] for values in self))


class TokenCounts(SlotTable):
    """For each slot: how often each token is in the output, whether it is in the prompt, and a list of the tokens in
    either.

    Attributes:
        counts: float32 ``[P, V]``, whole numbers: floats, as the scores that they change; sums of whole numbers stay
            exact.
        prompts: bool ``[P, V]``.
        lists: int32 ``[P, T]``: the different tokens that a text began with, then each token that was sampled, at its
            place less ``shifts``. Other entries hold any token.
        shifts: int64 ``[P]``.
    """

    def __init__(self, vocab_size: int, device: torch.device, upload: Upload) -> None:
        super().__init__()
        self.vocab_size, self.device, self.upload = vocab_size, device, upload
        self.max_list_len = max(vocab_size // LIST_SHARE, 1)
        self.counts = torch.zeros(0, vocab_size, device=device)
        self.prompts = torch.zeros(0, vocab_size, dtype=torch.bool, device=device)
        self.lists = torch.zeros(0, 1, dtype=torch.int32, device=device)
        self.shifts = torch.zeros(0, 1, dtype=torch.int64, device=device)
        self._texts: dict[int, tuple[Request, int]] = {}  # by slot, with its shift
        self._new: set[int] = set()

    def set(self, slot: int, request: Request) -> None:
        """Reset a slot to a request's tokens, at the next :meth:`flush`. All tokens must have reached the host."""
        self._texts[slot] = request, 0
        self._new.add(slot)

    def free(self, slot: int) -> None:
        super().free(slot)
        del self._texts[slot]
        self._new.discard(slot)

    @property
    def longest(self) -> int:
        """Length of the longest list of a slot in use, without the limit of a list's length."""
        return max((request.num_tokens - shift for request, shift in self._texts.values()), default=0)

    def flush(self) -> None:
        self.counts, self.prompts = self.grow(self.counts), self.grow(self.prompts)
        self.lists, self.shifts = self.grow(self.lists), self.grow(self.shifts)
        if not self._new:
            return
        prompts, outputs, lists, shifts = [], [], [], []
        for slot in self._new:
            request, _ = self._texts[slot]
            tokens = np.array(request.tokens, np.int64)
            # A tokenizer may know ids that the model's head has no logit for.
            prompt, output = (
                select_lines[select_lines < self.vocab_size]
                for select_lines in np.split(tokens, [request.num_prompt_tokens])
            )
            different = np.unique(np.concatenate([prompt, output]))
            shift = len(tokens) - len(different)
            self._texts[slot] = request, shift
            shifts.append(shift)
            prompts.append(prompt + slot * self.vocab_size)
            outputs.append(output + slot * self.vocab_size)
            lists.append(different[: self.max_list_len])
        slots = np.fromiter(self._new, np.int64)
        self._new.clear()
        self._widen(0)
        starts = slots * self.lists.shape[1]
        places = np.concatenate([start + np.arange(len(some)) for start, some in zip(starts, lists, strict=True)])
        self.lists.view(-1).index_copy_(0, self.upload(places), self.upload(np.concatenate(lists).astype(np.int32)))
        index = self.upload(slots)
        self.shifts.index_copy_(0, index, self.upload(np.array(shifts, np.int64)[:, None]))
        self.counts.index_fill_(0, index, 0)
        self.prompts.index_fill_(0, index, False)
        self.prompts.view(-1).index_fill_(0, self.upload(np.concatenate(prompts)), True)
        added = self.upload(np.concatenate(outputs))
        self.counts.view(-1).scatter_add_(0, added, torch.ones_like(added, dtype=torch.float32))

    def _widen(self, drafts: int) -> None:
        """Make room in each list for one more token, and this many drafts."""
        # The last place takes what is beyond the most, and is not read.
        limit = self.max_list_len + 1
        wanted = min(self.longest + 1 + drafts, limit)
        held = self.lists.shape[1]
        if wanted > held:
            more = min(max(wanted, 2 * held), limit) - held
            self.lists = torch.cat([self.lists, self.lists.new_zeros(len(self.lists), more)], 1)

    def count(self, slots: Tensor, tokens: Tensor, positions: Tensor, times: Tensor | None, drafts: int) -> None:
        """Add tokens to outputs.

        Args:
            slots, tokens: int64 ``[L]``; pairs may repeat.
            positions: int64 ``[L]``, the places of the tokens in their texts.
            times: float32 ``[L]``; 0 for tokens that do not count. None if all do.
            drafts: the largest number of draft tokens that a line assumes.
        """
        if times is None:
            times = torch.ones_like(tokens, dtype=torch.float32)
        self.counts.view(-1).scatter_add_(0, slots * self.vocab_size + tokens, times)
        self._widen(drafts)
        width = self.lists.shape[1]
        places = (positions - self.shifts.view(-1).index_select(0, slots)).clamp_(min=0, max=width - 1)
        self.lists.view(-1).index_copy_(0, slots * width + places, tokens.int())

    def penalise(
        self, scores: Tensor, lines: Tensor, slots: Tensor, penalties: Penalties, drafts: Tensor | None
    ) -> None:
        """Change the scores of some lines, in place.

        Args:
            scores: float32 ``[L', V]``, contiguous.
            lines, slots: int64 ``[L]``.
            penalties: of these lines.
            drafts: int64 ``[L, D]``, tokens to count as output in addition to the slots' own; -1 for none.
        """
        # Requests that ended since they were scheduled may have longer lists; their tokens are dropped.
        longest = self.longest
        chunk = max(SCORES_PER_CHUNK // max(longest if longest <= self.max_list_len else self.vocab_size, 1), 1)
        for start in range(0, len(lines), chunk):
            some = slice(start, start + chunk)
            its = lines[some], slots[some], penalties.select_lines(some), None if drafts is None else drafts[some]
            if longest <= self.max_list_len:
                self._penalise_listed(scores, longest, *its)
            else:
                self._penalise_vocabulary(scores, *its)

    def _penalise_listed(
        self, scores: Tensor, longest: int, lines: Tensor, slots: Tensor, penalties: Penalties, drafts: Tensor | None
    ) -> None:
        """Penalise the tokens in the lists."""
        ids = self.lists[:, :longest].index_select(0, slots).long()  # [L, T]
        if drafts is not None:
            ids = torch.cat([ids, drafts.clamp(min=0)], 1)  # [L, T + D]
        held = (ids + (slots * self.vocab_size)[:, None]).view(-1)
        counts = self.counts.view(-1).index_select(0, held).view(ids.shape)
        if drafts is not None:
            for draft in drafts.split(1, 1):
                counts += ids == draft
        prompts = self.prompts.view(-1).index_select(0, held).view(ids.shape)
        places = ids.add_((lines * self.vocab_size)[:, None]).view(-1)
        flat = scores.view(-1)
        values = penalties.apply(flat.index_select(0, places).view(ids.shape), counts, prompts)
        flat.scatter_(0, places, values.view(-1))

    def _penalise_vocabulary(
        self, scores: Tensor, lines: Tensor, slots: Tensor, penalties: Penalties, drafts: Tensor | None
    ) -> None:
        """Penalise over the whole vocabulary."""
        counts = self.counts.index_select(0, slots)
        if drafts is not None:
            counts.scatter_add_(1, drafts.clamp(min=0), (drafts >= 0).float())
        prompts = self.prompts.index_select(0, slots)
        scores.index_copy_(0, lines, penalties.apply(scores.index_select(0, lines), counts, prompts))
