"""One completion in the API's process: the engine's tokens in, text deltas out."""

from __future__ import annotations

from functools import partial
from itertools import islice

from dovetail.engine.messages import TokenOutput
from dovetail.engine.output import logprobs
from dovetail.engine.request.outputs import Delta
from dovetail.engine.request.params import SamplingParams
from dovetail.engine.text.detokenizer import IncrementalDetokenizer
from dovetail.engine.text.stop_strings import StopAutomaton, StopStrings
from dovetail.engine.text.tokenizer import Tokenizer


def no_text(_: int) -> None:
    """The text of a token when detokenization is off."""


class Completion:
    """One completion of a request.

    Args:
        index: among those of its request.
        tokenizer: None if outputs are token ids only.
        prompt_token_ids: the prompt.
        stops: of the stop strings, if there are any.
    """

    def __init__(
        self,
        index: int,
        params: SamplingParams,
        tokenizer: Tokenizer | None,
        prompt_token_ids: list[int],
        stops: StopAutomaton | None = None,
    ) -> None:
        self.index = index
        self.params = params
        self.tokens = 0
        self._stops = StopStrings(stops, params.include_stop_str_in_output) if stops is not None else None
        self._detokenizer: IncrementalDetokenizer | None = None
        self._token_text: logprobs.TokenText = no_text
        if tokenizer is not None and params.detokenize:
            self._detokenizer = IncrementalDetokenizer(
                tokenizer, params.skip_special_tokens, prompt_token_ids, params.shown_special_tokens
            )
            self._token_text = partial(logprobs.token_text, tokenizer)

    def build_delta(self, output: TokenOutput) -> Delta:
        """The delta for an output of the engine. If a stop string ends the completion, the tokens after it are dropped."""
        delta = Delta(self.index, "", output.token_ids, output.finish_reason, output.stop_reason, output.error)
        delta.is_request_error = output.is_request_error
        if self._detokenizer is None:
            self.tokens += len(output.token_ids)
        elif self._stops is None:
            self.tokens += len(output.token_ids)
            delta.text = self._detokenizer.add(self._visible_token_ids(output))
            if output.finish_reason is not None:
                delta.text += self._detokenizer.flush()
        else:
            self._add_until_stop(delta, output, self._stops, self._detokenizer)
        if output.logprobs is not None:
            delta.logprobs = logprobs.build_positions(output.logprobs[: len(delta.token_ids)], self._token_text)
        if output.prompt_logprobs is not None:
            delta.prompt_logprobs = logprobs.PromptPositions(output.prompt_logprobs, self._token_text)
        delta.cached_tokens = output.cached_tokens
        delta.timing = output.timing
        return delta

    def _visible_token_ids(self, output: TokenOutput) -> list[int]:
        """The tokens whose text is shown. The token that ended the output is not, even if the tokenizer does not mark
        it as special.
        """
        if output.finish_reason == "stop" and not self.params.include_stop_str_in_output:
            return output.token_ids[:-1]
        return output.token_ids

    def _add_until_stop(
        self, delta: Delta, output: TokenOutput, stops: StopStrings, detokenizer: IncrementalDetokenizer
    ) -> None:
        """Add text token by token and check for stop strings: any of several tokens may end the output."""
        parts: list[str] = []
        for count, token in enumerate(self._visible_token_ids(output), 1):
            self.tokens += 1
            text, stop = stops.add(detokenizer.add([token]), self.tokens > self.params.min_tokens)
            parts.append(text)
            if stop is not None:
                delta.token_ids = list(islice(output.token_ids, count))
                delta.finish_reason, delta.stop_reason = "stop", stop
                break
        else:
            if output.finish_reason is not None:
                # The rest of a character that the output ended in may complete a stop string; what it does not complete is text.
                self.tokens += len(output.token_ids) - len(self._visible_token_ids(output))
                text, stop = stops.add(detokenizer.flush(), self.tokens > self.params.min_tokens)
                parts.append(text)
                if stop is not None:
                    delta.finish_reason, delta.stop_reason = "stop", stop
                else:
                    parts.append(stops.flush())
        delta.text = "".join(parts)
