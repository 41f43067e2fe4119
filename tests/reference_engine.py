"""A slow, obvious engine: one request at a time, one token at a time, every token computed from the whole sequence, nothing kept."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import torch

from dovetail.engine.engine_request import Request
from dovetail.engine.messages import NewRequest
from dovetail.engine.request.checks import find_eos_token_ids
from dovetail.engine.sampling.edits import build_logit_edits
from dovetail.engine.sampling.metadata import build_sampling_metadata
from dovetail.engine.sampling.sampler import sample
from dovetail.engine.sampling.tables import SamplingTables
from dovetail.engine.step.runner import ModelRunner
from dovetail.engine.text.bad_words import BadWords
from dovetail.kernel.plan import Plan
from dovetail.nn.step import HostLengths, KVIndex, Step


class ReferenceEngine:
    """Computes what each request must give. Requests have to bring a seed."""

    def __init__(self, plan: Plan) -> None:
        self.runner = ModelRunner(plan, block_size=16)
        self.plan = plan
        self.eos_ids = find_eos_token_ids(plan)
        self.answers: dict[bytes, list[int]] = {}

    def generate(self, new: NewRequest) -> list[int]:
        """The request's tokens. Tests that ask for the same again get what was computed before."""
        asked = msgspec.msgpack.encode(new)
        if asked not in self.answers:
            self.answers[asked] = self._generate(new)
        return list(self.answers[asked])

    def _generate(self, new: NewRequest) -> list[int]:
        params = new.params
        assert params.seed is not None
        length = len(new.prompt_token_ids)
        limit = min(self.plan.max_model_len, length + (params.max_tokens or self.plan.max_model_len))
        request = Request(
            new.id,
            list(new.prompt_token_ids),
            params,
            length,
            limit,
            self.eos_ids,
            seed=params.seed,
            bad_words=BadWords(new.bad_words),
        )
        while True:
            request.tokens.append(self._next(request))
            if request.finish_reason()[0] is not None:
                return request.tokens[length:]

    def generate_all(self, requests: Iterable[NewRequest]) -> dict[str, list[int]]:
        return {new.id: self.generate(new) for new in requests}

    @torch.inference_mode()
    def _next(self, request: Request) -> int:
        runner, count = self.runner, len(request.tokens)
        blocks = -(-count // 16)
        runner.allocate([blocks + 1] * len(runner.groups))
        positions = torch.arange(count)
        table = torch.arange(1, blocks + 1, dtype=torch.int32)[None]
        step = Step(
            tokens=torch.tensor(request.tokens),
            positions=positions,
            query_start=torch.tensor([0, count], dtype=torch.int32),
            seq_lens=torch.tensor([count], dtype=torch.int32),
            logits_indices=positions[-1:],
            kv=tuple(KVIndex(table, positions + 16) for _ in runner.groups),
            max_query_len=count,
            max_seq_len=count,
            lengths=HostLengths([count], [count]),
        )
        logits = runner.model.logits(runner.compute_hidden_states(step)[-1:])
        rows = SamplingTables(1, runner.config.vocab_size, runner.device, torch.from_numpy)
        rows.set(0, request)
        rows.flush()
        edits = build_logit_edits([(request, [])], runner.config.vocab_size, torch.from_numpy)
        sampled = sample(
            logits, torch.tensor([0]), torch.tensor([count]), rows, build_sampling_metadata([request]), edits
        )
        return int(sampled.tokens)
