"""From the engine's tokens to text: detokenization, stop strings, and the bookkeeping of ``n`` completions."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from dovetail.api.errors import RequestError
from dovetail.engine.detokenizer import IncrementalDetokenizer
from dovetail.engine.messages import NewRequest, TokenOutput
from dovetail.engine.outputs import Delta
from dovetail.engine.params import MAX_SEED, SamplingParams
from dovetail.engine.tokenizer import Tokenizer


class StopStrings:
    """Finds stop strings across token borders.

    Text that may be the beginning of a stop string is held back until it is decided.
    """

    def __init__(self, stops: list[str], include: bool) -> None:
        self.stops = stops
        self.include = include
        self.held = ""

    def add(self, text: str) -> tuple[str, str | None]:
        """Text that is safe to show, and the stop string that ended the output, if one did."""
        self.held += text
        found = [(at, -len(stop), stop) for stop in self.stops if (at := self.held.find(stop)) >= 0]
        if found:
            at, _, stop = min(found)  # the first to appear; of those that begin together, the longest
            shown = self.held[: at + len(stop) if self.include else at]
            self.held = ""
            return shown, stop
        keep = max((self._overlap(stop) for stop in self.stops), default=0)
        shown, self.held = self.held[: len(self.held) - keep], self.held[len(self.held) - keep :]
        return shown, None

    def _overlap(self, stop: str) -> int:
        """Length of the longest end of the held text that begins this stop string."""
        for length in range(min(len(stop) - 1, len(self.held)), 0, -1):
            if self.held.endswith(stop[:length]):
                return length
        return 0

    def flush(self) -> str:
        shown, self.held = self.held, ""
        return shown


@dataclass
class _Completion:
    index: int
    parent: str
    params: SamplingParams
    detokenizer: IncrementalDetokenizer
    stops: StopStrings
    tokens: int = 0


class OutputProcessor:
    """Turns requests into the engine's sequences, and the engine's outputs into deltas of text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._completions: dict[str, _Completion] = {}
        self._children: dict[str, set[str]] = {}

    def add(self, request_id: str, prompt_token_ids: list[int], params: SamplingParams) -> list[NewRequest]:
        """The sequences that make up a request: one for each of its ``n`` completions.

        Raises:
            RequestError: the id is in use, or the parameters, which may have been changed since they were made, do not hold.
        """
        if request_id in self._children:
            raise RequestError(f"a request with the id {request_id!r} is running", "give each request an id of its own")
        completions: dict[str, _Completion] = {}
        for index in range(params.n):
            # Completions of one seeded request differ from each other, and each is repeatable.
            seed = None if params.seed is None else (params.seed + index) % MAX_SEED
            child = msgspec.structs.replace(params, seed=seed)
            completions[f"{request_id}#{index}"] = _Completion(
                index,
                request_id,
                child,
                IncrementalDetokenizer(self.tokenizer, params.skip_special_tokens, prompt_token_ids),
                StopStrings(params.stop, params.include_stop_str_in_output),
            )
        self._completions |= completions
        self._children[request_id] = set(completions)
        return [NewRequest(name, prompt_token_ids, c.params) for name, c in completions.items()]

    def process(self, outputs: list[TokenOutput]) -> tuple[dict[str, list[Delta]], list[str]]:
        """Deltas by request, and the engine's sequences to abort because a stop string ended them."""
        deltas: dict[str, list[Delta]] = {}
        aborts: list[str] = []
        for output in outputs:
            completion = self._completions.get(output.id)
            if completion is None:  # aborted while this was on its way
                continue
            delta = self._delta(completion, output)
            deltas.setdefault(completion.parent, []).append(delta)
            if delta.finish_reason is not None:
                if output.finish_reason is None:
                    aborts.append(output.id)
                self._forget(output.id, completion.parent)
        return deltas, aborts

    def _delta(self, completion: _Completion, output: TokenOutput) -> Delta:
        delta = Delta(completion.index, "", output.token_ids, output.finish_reason, output.stop_reason, output.error)
        # The token that ended the output is not part of its text, whether or not the tokenizer calls it special.
        ended_by_token = output.finish_reason == "stop"
        shown = output.token_ids[:-1] if ended_by_token else output.token_ids
        if ended_by_token and completion.params.include_stop_str_in_output:
            shown = output.token_ids
        text = completion.detokenizer.add(shown)
        if output.finish_reason is not None:
            text += completion.detokenizer.flush()
        completion.tokens += len(output.token_ids)
        if completion.stops.stops and completion.tokens > completion.params.min_tokens:
            text, stop = completion.stops.add(text)
            if stop is not None:
                delta.finish_reason, delta.stop_reason = "stop", stop
            elif output.finish_reason is not None:
                text += completion.stops.flush()
        delta.text = text
        return delta

    def _forget(self, child_id: str, parent: str) -> None:
        del self._completions[child_id]
        children = self._children[parent]
        children.discard(child_id)
        if not children:
            del self._children[parent]

    def unfinished(self, request_id: str) -> bool:
        return request_id in self._children

    def abort(self, request_id: str) -> list[str]:
        """Forget a request; the engine's sequences to abort."""
        children = sorted(self._children.pop(request_id, ()))
        for child in children:
            del self._completions[child]
        return children
