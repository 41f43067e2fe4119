"""Offline use: a model in this process, prompts in, texts out."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from tqdm.auto import tqdm

from dovetail.api.errors import RequestError, UsageError
from dovetail.engine.args import EngineArgs
from dovetail.engine.checks import check_prompt
from dovetail.engine.core import EngineCore
from dovetail.engine.defaults import sampling_defaults, with_defaults
from dovetail.engine.outputs import CompletionOutput, Delta, RequestMetrics, RequestOutput
from dovetail.engine.params import SamplingParams
from dovetail.engine.processor import OutputProcessor
from dovetail.engine.setup import load_tokenizer, make_plan
from dovetail.engine.tokenizer import Tokenizer

Prompt = str | Mapping[str, Any]
Messages = Sequence[Mapping[str, Any]]


class LLM:
    """A model for offline inference.

    Args:
        model: a folder, a weight file or a hub repository; without it, the embedded default.
        use_tqdm: show a progress bar while weights load.
        **options: fields of :class:`~dovetail.engine.args.EngineArgs`, such as ``dtype``, ``max_model_len``, ``hf_overrides``
            (a dict, or a callable from and to the configuration's dict).

    Raises:
        DovetailError: the model cannot be resolved or loaded, with the reason.

    Example:
        >>> llm = LLM()
        >>> llm.generate("The capital of France is", SamplingParams(temperature=0))[0].outputs[0].text
    """

    def __init__(self, model: str | Path | None = None, *, use_tqdm: bool = True, **options: Any) -> None:
        try:
            self.args = EngineArgs(model=None if model is None else str(model), **options)
        except ValidationError as error:
            faults = "; ".join(f"{'.'.join(map(str, e['loc'][:1]))}: {e['msg']}" for e in error.errors())
            raise UsageError(
                f"LLM was given options that do not hold: {faults}", "docs/options.md lists them"
            ) from None
        self.plan = make_plan(self.args)
        self._tokenizer = load_tokenizer(self.plan, self.args.chat_template)
        self._defaults = sampling_defaults(self.plan, self.args)
        with tqdm(desc="Loading weights", unit="layer", disable=not use_tqdm, leave=False) as bar:

            def progress(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            self._core = EngineCore(self.plan, self.args, progress)
        self._processor = OutputProcessor(self._tokenizer)
        self._ids = itertools.count()
        self._lock = threading.Lock()  # one call at a time: a second thread waits for the first

    def get_tokenizer(self) -> Tokenizer:
        return self._tokenizer

    def get_default_sampling_params(self) -> SamplingParams:
        """What :meth:`generate` uses when it is given none: the model's own generation configuration."""
        return with_defaults(None, self._defaults)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
    ) -> list[RequestOutput]:
        """Complete prompts, all together in one continuous batch.

        Args:
            prompts: a text, ``{"prompt": text}`` or ``{"prompt_token_ids": ids}``, or a list of such.
            sampling_params: one for all, or one each; None for the model's defaults.

        Returns:
            One output a prompt, in order.

        Raises:
            RequestError: a prompt is empty, too long, or of no known shape. Nothing has been computed then.
        """
        single = isinstance(prompts, (str, Mapping))
        if not single and (isinstance(prompts, bytes) or not isinstance(prompts, Sequence)):
            raise RequestError(
                f"prompts is a {type(prompts).__name__}", "give a text, a dict, or a list of them", param="prompt"
            )
        listed: list[Any] = [prompts] if single else list(prompts)
        texts = [self._read_prompt(p, i) for i, p in enumerate(listed)]
        return self._run(texts, sampling_params, use_tqdm)

    def chat(
        self,
        messages: Messages | Sequence[Messages],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
        chat_template: str | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[RequestOutput]:
        """Answer one conversation (a list of messages) or many (a list of such lists).

        Raises:
            RequestError: the model has no chat template and none is given, or the template refuses the messages.
        """
        many = isinstance(messages, Sequence) and bool(messages) and not isinstance(messages[0], Mapping)
        conversations: Any = messages if many else [messages]
        for conversation in conversations:
            whole = isinstance(conversation, Sequence) and conversation and not isinstance(conversation, str)
            if not whole or not all(isinstance(message, Mapping) for message in conversation):
                raise RequestError(
                    f"a conversation is {conversation!r}",
                    'give messages like [{"role": "user", "content": "Hi"}]',
                    param="messages",
                )
        prompts: list[tuple[str | None, list[int]]] = []
        for conversation in conversations:
            text = self._tokenizer.apply_chat_template(
                [dict(message) for message in conversation],
                tools=[dict(tool) for tool in tools] if tools else None,
                chat_template=chat_template,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                **(chat_template_kwargs or {}),
            )
            prompts.append((text, self._tokenizer.encode(text, add_special_tokens=False)))
        return self._run(prompts, sampling_params, use_tqdm)

    def _read_prompt(self, prompt: Any, position: int) -> tuple[str | None, list[int]]:
        if isinstance(prompt, Mapping):
            if "prompt_token_ids" in prompt:
                return prompt.get("prompt"), list(prompt["prompt_token_ids"])
            prompt = prompt.get("prompt")
        if isinstance(prompt, str):
            return prompt, self._tokenizer.encode(prompt)
        raise RequestError(
            f"prompt {position} is a {type(prompt).__name__}",
            'give a text, {"prompt": text} or {"prompt_token_ids": [ids]}',
            param="prompt",
        )

    def _run(
        self,
        prompts: list[tuple[str | None, list[int]]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None,
        use_tqdm: bool,
    ) -> list[RequestOutput]:
        if isinstance(sampling_params, Sequence):
            if len(sampling_params) != len(prompts):
                raise RequestError(
                    f"{len(sampling_params)} sampling parameters were given for {len(prompts)} prompts",
                    "give one for all, or one each",
                )
            each = [with_defaults(p, self._defaults) for p in sampling_params]
        else:
            each = [with_defaults(sampling_params, self._defaults)] * len(prompts)
        for _, ids in prompts:
            check_prompt(ids, self._core.max_model_len, self._core.vocab_size)
        with self._lock:
            return self._complete(prompts, each, use_tqdm)

    def _complete(
        self, prompts: list[tuple[str | None, list[int]]], each: list[SamplingParams], use_tqdm: bool
    ) -> list[RequestOutput]:
        results: dict[str, RequestOutput] = {}
        for (text, ids), params in zip(prompts, each, strict=True):
            request_id = str(next(self._ids))
            completions = [CompletionOutput(i) for i in range(params.n)]
            results[request_id] = RequestOutput(
                request_id, text, ids, completions, metrics=RequestMetrics(arrival=time.monotonic())
            )
        try:
            for output, params in zip(results.values(), each, strict=True):
                for sequence in self._processor.add(output.request_id, output.prompt_token_ids, params):
                    self._core.add(sequence)
            with tqdm(total=len(prompts), desc="Processed prompts", unit="prompt", disable=not use_tqdm) as bar:
                self._drive(results, bar.update)
        except BaseException:  # Ctrl+C among them: leave nothing behind for the next call
            for request_id in results:
                self._core.abort(self._processor.abort(request_id))
            raise
        return list(results.values())

    def _drive(self, results: dict[str, RequestOutput], finished: Callable[[], Any]) -> None:
        unfinished = len(results)
        while unfinished:
            deltas, aborts = self._processor.process(self._core.step())
            self._core.abort(aborts)
            now = time.monotonic()
            for request_id, new in deltas.items():
                output = results[request_id]
                assert output.metrics is not None
                output.metrics.first_token = output.metrics.first_token or now
                for delta in new:
                    _apply(output.outputs[delta.index], delta)
                if not self._processor.unfinished(request_id):
                    output.finished = True
                    output.metrics.finished = now
                    unfinished -= 1
                    finished()


def _apply(completion: CompletionOutput, delta: Delta) -> None:
    completion.text += delta.text
    completion.token_ids += delta.token_ids
    if delta.finish_reason is not None:
        completion.finish_reason, completion.stop_reason = delta.finish_reason, delta.stop_reason
