"""From logits to tokens, vectorised over the batch; what no request asks for costs nothing.

Order, as in vLLM: penalties and minimum length, temperature, min-p, top-k, top-p, draw.

Letters: L rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dovetail.engine.params import SamplingParams
from dovetail.engine.request import Request

FEW = 64
"""Up to so many tokens of a top-k are found without sorting the vocabulary."""


def sample(logits: Tensor, requests: Sequence[Request]) -> Tensor:
    """The next token of each request.

    Args:
        logits: ``[L, V]``, any float dtype; changed in place where it is float32.
        requests: L of them; those with a seed have their generator advanced.

    Returns:
        int64 ``[L]``, on the logits' device.
    """
    logits = logits.float()
    penalise(logits, requests)
    forbid_early_end(logits, requests)
    tokens = logits.argmax(-1)
    drawing = [i for i, r in enumerate(requests) if not r.params.greedy]
    if not drawing:
        return tokens
    # Rows that only want the likeliest token take no part in what costs more.
    index = torch.tensor(drawing, device=logits.device)
    chosen = [requests[i] for i in drawing]
    lines = logits if len(drawing) == len(requests) else logits[index]
    lines.div_(torch.tensor([r.params.temperature for r in chosen], device=logits.device)[:, None])
    restrict(lines, [r.params for r in chosen])
    tokens[index] = draw(lines.softmax(-1), chosen)
    return tokens


def penalise(logits: Tensor, requests: Sequence[Request]) -> None:
    """Repetition penalty on prompt and output (Keskar et al., 2019), presence and frequency penalties on the output, in place."""
    vocabulary = logits.shape[1]
    for row, request in enumerate(requests):
        params = request.params
        if not params.penalised:
            continue
        output = torch.tensor(request.tokens[request.prompt_len :], dtype=torch.int64, device=logits.device)
        line = logits[row]
        if params.repetition_penalty != 1.0:
            seen = torch.tensor(request.tokens, dtype=torch.int64, device=logits.device).unique()
            values = line[seen]
            line[seen] = torch.where(values > 0, values / params.repetition_penalty, values * params.repetition_penalty)
        if output.numel() and (params.presence_penalty or params.frequency_penalty):
            counts = output.bincount(minlength=vocabulary)
            line -= params.frequency_penalty * counts + params.presence_penalty * (counts > 0)


def forbid_early_end(logits: Tensor, requests: Sequence[Request]) -> None:
    """Tokens that would end a request before its ``min_tokens`` cannot be chosen, in place."""
    for row, request in enumerate(requests):
        if request.output_len < request.params.min_tokens and request.end_ids:
            ids = [t for t in request.end_ids if t < logits.shape[1]]
            logits[row, ids] = float("-inf")


def restrict(logits: Tensor, params: Sequence[SamplingParams]) -> None:
    """min-p (Nguyen et al., 2024), top-k (Fan et al., 2018) and top-p (Holtzman et al., 2019): the tokens that fall out get -inf, in place."""
    vocabulary = logits.shape[1]

    def column(value: Callable[[SamplingParams], float]) -> Tensor:
        return torch.tensor([value(p) for p in params], device=logits.device)[:, None]

    if any(p.min_p > 0 for p in params):
        # p >= min_p * p_max, in logarithms; log(0) = -inf keeps everything.
        floor = logits.amax(-1, keepdim=True) + column(lambda p: p.min_p).float().log()
        logits.masked_fill_(logits < floor, float("-inf"))
    # Few rows ask for a cut in most batches, and those with a small top-k need no sorting of the whole vocabulary.
    cut = [i for i, p in enumerate(params) if 0 < p.top_k < vocabulary or p.top_p < 1]
    few = [i for i in cut if 0 < params[i].top_k <= FEW]
    for rows, width in ((few, FEW), ([i for i in cut if i not in set(few)], vocabulary)):
        if rows:
            _cut(logits, rows, [params[i] for i in rows], min(width, vocabulary))


def _cut(logits: Tensor, rows: list[int], params: Sequence[SamplingParams], width: int) -> None:
    """top-k and top-p of some rows, of which no more than ``width`` tokens can stay, in place."""
    index = torch.tensor(rows, device=logits.device)
    values, order = logits[index].topk(width)  # [rows, width], likeliest first
    rank = torch.arange(width, device=logits.device)
    keep = torch.tensor([p.top_k if 0 < p.top_k < width else width for p in params], device=logits.device)[:, None]
    values.masked_fill_(rank >= keep, float("-inf"))
    probabilities = values.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    # A token stays if those before it do not reach p yet, so the likeliest always does; rounding must not cut where p is 1.
    limit = torch.tensor([p.top_p if p.top_p < 1 else 2.0 for p in params], device=logits.device)[:, None]
    values.masked_fill_((before >= limit) & (rank > 0), float("-inf"))
    logits[index] = torch.full((len(rows), logits.shape[1]), float("-inf"), device=logits.device).scatter_(
        -1, order, values
    )


def draw(probabilities: Tensor, requests: Sequence[Request]) -> Tensor:
    """One token a row by the exponential race: ``argmax(p / e)`` with ``e`` ~ Exp(1) is distributed as p, and needs no host.

    A request with a seed draws from its own generator, so its numbers are the same alone or in any batch.
    """
    noise = torch.empty_like(probabilities)
    seeded = [i for i, r in enumerate(requests) if r.params.seed is not None]
    if len(seeded) < len(requests):
        noise.exponential_()
    for row in seeded:
        request = requests[row]
        if request.generator is None:
            assert request.params.seed is not None
            request.generator = torch.Generator(probabilities.device).manual_seed(request.params.seed)
        noise[row].exponential_(generator=request.generator)
    return probabilities.div_(noise).argmax(-1)
