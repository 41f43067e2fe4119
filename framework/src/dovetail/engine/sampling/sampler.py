"""From logits to tokens.

Order, as in vLLM: logit bias and allowed tokens, penalties, what the host forbids, temperature, min-p, top-k, top-p, draw.

Letters: L lines (sampled positions), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from dovetail.engine.sampling import rows as columns
from dovetail.engine.sampling.draw import draw, draw_sorted, weights_of
from dovetail.engine.sampling.edits import Edits
from dovetail.engine.sampling.greedy import greedy
from dovetail.engine.sampling.likeliest import likeliest
from dovetail.engine.sampling.logprobs import Logprobs, logprobs_of
from dovetail.engine.sampling.noise import uniform
from dovetail.engine.sampling.penalties import Penalties
from dovetail.engine.sampling.ranked import draw_ranked
from dovetail.engine.sampling.rows import SamplingRows
from dovetail.engine.sampling.wants import Group, Wants

NONE = -1
"""Stands for a token where every token was forbidden."""
CHUNK = 64
"""Lines that draw at a time: their integer weights take 8 bytes a token, 64 MiB for 64 lines of 128k."""


@dataclass
class Sampled:
    """Attributes:
    tokens: int64 ``[L]``, in the vocabulary; :data:`NONE` where everything was forbidden.
    logprobs: of the raw logits, before anything was changed in them; None if no line asks for them.
    """

    tokens: Tensor
    logprobs: Logprobs | None


@dataclass
class Lines:
    """Some lines of a step with their parameters, all on the device.

    Attributes:
        scores: ``[L, V]``.
        floats, numbers: their rows of the tables.
        uniforms: int64 ``[L]``.
    """

    scores: Tensor
    floats: Tensor
    numbers: Tensor
    uniforms: Tensor

    def weights(self, scores: Tensor, min_p: bool) -> Tensor:
        """Of scores whose greatest is among them, see :func:`~dovetail.engine.sampling.draw.weights_of`."""
        floors = self.numbers[:, columns.MIN_P] if min_p else None
        return weights_of(scores, scores.amax(-1, keepdim=True), self.floats[:, columns.TEMPERATURE], floors)


Way = Callable[[Lines], Tensor]
"""From lines that draw to their tokens, int64 ``[L]``."""


def sample(
    logits: Tensor, rows: Tensor, positions: Tensor, tables: SamplingRows, wants: Wants, edits: Edits | None
) -> Sampled:
    """The next token of each line.

    Nothing in it waits for the device, and with plain wants of no size (``Wants()``, ``Wants(draws=True)``) it can be captured in a graph.

    Args:
        logits: ``[L, V]``, any float dtype, contiguous; may be changed in place where they are float32.
        rows: int64 ``[L]``, of ``tables``, which have been flushed.
        positions: int64 ``[L]``, the place that the sampled token will have in its sequence, from 0.
        tables: parameters of the rows; their counts go on by the sampled tokens.
        wants: of the lines' requests, in order.
        edits: what :func:`~dovetail.engine.sampling.edits.host_edits` found for these lines.
    """
    assert wants.size in (None, logits.shape[0]), "wants are made from one request for each line"
    scores, forbidden = logits, None
    if wants.bias or wants.penalties or edits is not None:
        scores = _changed(logits, rows, tables, wants, edits)
        if wants.bias or edits is not None:
            forbidden = scores.amax(-1) == -torch.inf
    tokens = _choose(scores, rows, positions, tables, wants)
    if wants.penalised is not None:
        theirs, chosen, places = _of_lines(wants.penalised, tables, rows, tokens, positions)
        slots = tables.numbers[:, columns.COUNTS].index_select(0, theirs)
        times, drafts = (None, 0) if edits is None else (edits.counted(chosen), len(edits.assumed))
        tables.counts.count(slots, chosen, places, times, drafts)
    logprobs = None if wants.logprobs is None else logprobs_of(logits, tokens, wants.logprobs)
    return Sampled(tokens if forbidden is None else tokens.masked_fill(forbidden, NONE), logprobs)


def _changed(logits: Tensor, rows: Tensor, tables: SamplingRows, wants: Wants, edits: Edits | None) -> Tensor:
    """Scores after bias, penalties and edits; float32, and not the logits' memory where these are still needed."""
    scores = logits.float()
    if scores is logits and wants.logprobs is not None:
        scores = logits.clone()
    if wants.biased is not None:
        lines = _index(wants.biased, tables, rows)
        slots = tables.numbers[:, columns.BIAS].index_select(0, rows.index_select(0, lines))
        scores.index_add_(0, lines, tables.biases.values.index_select(0, slots))
    if wants.penalised is not None:
        lines = _index(wants.penalised, tables, rows)
        (theirs,) = _of_lines(wants.penalised, tables, rows)
        floats = tables.floats.index_select(0, theirs)
        penalties = Penalties(
            floats[:, columns.REPETITION, None] if wants.repetition else None,
            floats[:, columns.PRESENCE, None] if wants.presence else None,
            floats[:, columns.FREQUENCY, None] if wants.frequency else None,
        )
        slots = tables.numbers[:, columns.COUNTS].index_select(0, theirs)
        tables.counts.penalise(scores, lines, slots, penalties, None if edits is None else edits.drafted)
    if edits is not None:
        edits.apply(scores)
    return scores


def _choose(scores: Tensor, rows: Tensor, positions: Tensor, tables: SamplingRows, wants: Wants) -> Tensor:
    if not wants.draws:
        return greedy(scores)
    floats, numbers = tables.floats.index_select(0, rows), tables.numbers.index_select(0, rows)
    every = Lines(scores, floats, numbers, uniform(numbers[:, columns.SEED], positions))
    if wants.size is None:
        # Greedy lines draw too, and then take the likeliest all the same: one graph serves every mixture.
        return torch.where(floats[:, columns.TEMPERATURE] > 0, _by_chunks(every, _free), greedy(scores))

    vocabulary = scores.shape[1]
    few = partial(_few, width=min(wants.width, vocabulary))
    free = _free_above_min_p if wants.min_p else _free
    ranked = _ranked_by_k if wants.ranked_k else _ranked
    if tables.sorts:
        ranked = partial(_few, width=vocabulary)
    drawing: tuple[tuple[Group | None, Way], ...] = ((wants.free, free), (wants.few, few), (wants.ranked, ranked))
    for group, way in drawing:
        if group is not None and group.lines is None:
            return _by_chunks(every, way)
    tokens = greedy(scores)
    for group, way in drawing:
        if group is not None:
            lines = _index(group, tables, tokens)
            tokens.index_copy_(0, lines, _by_chunks(every, way, lines))
    return tokens


def _by_chunks(every: Lines, way: Way, lines: Tensor | None = None) -> Tensor:
    """What ``way`` draws for some lines, or all."""
    parts = []
    count = len(every.scores) if lines is None else len(lines)
    for start in range(0, count, CHUNK):
        parameters = (every.scores, every.floats, every.numbers, every.uniforms)
        if lines is None:
            some = [values[start : start + CHUNK] for values in parameters]
        else:
            some = [values.index_select(0, lines[start : start + CHUNK]) for values in parameters]
        parts.append(way(Lines(some[0].float(), *some[1:])))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _free(lines: Lines) -> Tensor:
    """Draw from the whole vocabulary."""
    return draw(lines.weights(lines.scores, min_p=False), lines.uniforms)


def _free_above_min_p(lines: Lines) -> Tensor:
    """Draw from what min-p leaves of the vocabulary."""
    return draw(lines.weights(lines.scores, min_p=True), lines.uniforms)


def _few(lines: Lines, width: int) -> Tensor:
    """Draw from the ``width`` likeliest, of which no more than top-k and top-p say stay."""
    values, ids = likeliest(lines.scores, width)
    weights = lines.weights(values, min_p=True)
    place = draw_sorted(weights, lines.numbers[:, columns.TOP_K], lines.numbers[:, columns.TOP_P], lines.uniforms)
    return ids.gather(1, place[:, None])[:, 0]


def _ranked(lines: Lines) -> Tensor:
    """Draw from what top-p leaves of the vocabulary."""
    weights = lines.weights(lines.scores, min_p=True)
    return draw_ranked(lines.scores, weights, None, lines.numbers[:, columns.TOP_P], lines.uniforms)


def _ranked_by_k(lines: Lines) -> Tensor:
    """Draw from what top-k and top-p leave of the vocabulary."""
    weights = lines.weights(lines.scores, min_p=True)
    top_k, top_p = lines.numbers[:, columns.TOP_K], lines.numbers[:, columns.TOP_P]
    return draw_ranked(lines.scores, weights, top_k, top_p, lines.uniforms)


def _index(group: Group, tables: SamplingRows, like: Tensor) -> Tensor:
    """A group's lines on the device."""
    return torch.arange(len(like), device=like.device) if group.lines is None else tables.upload(group.lines)


def _of_lines(group: Group, tables: SamplingRows, *values: Tensor) -> tuple[Tensor, ...]:
    """What tensors ``[L, ...]`` hold for a group's lines."""
    if group.lines is None:
        return values
    lines = tables.upload(group.lines)
    return tuple(some.index_select(0, lines) for some in values)
