"""Offline use: a model in this process, prompts in, texts out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dovetail.api.errors import RequestError, UsageError
from dovetail.engine.args import EngineArgs
from dovetail.engine.offline.arguments import LoRARequests, ProgressBar, broadcast_to_prompts, progress_bar
from dovetail.engine.offline.llm_engine import LLMEngine
from dovetail.engine.offline.llm_pooling import PoolingMethods
from dovetail.engine.offline.pooling import OfflinePooling
from dovetail.engine.offline.prompts import (
    Messages,
    Prompt,
    TokenizedPrompt,
    read_conversations,
    read_prompts,
)
from dovetail.engine.offline.run import Job
from dovetail.engine.output.beam_search import BeamSearch, BeamSearchOutput, build_step_params
from dovetail.engine.request.checks import check_request, find_eos_token_ids
from dovetail.engine.request.defaults import apply_defaults
from dovetail.engine.request.outputs import PositionLogprobs, RequestOutput
from dovetail.engine.request.params import BeamSearchParams, SamplingParams
from dovetail.engine.templates.chat_template import ContentFormatOption
from dovetail.engine.text.hf_tokenizer import HFTokenizer


class LLM(PoolingMethods):
    """A model for offline inference.

    Args:
        model: a folder, a weight file or a hub repository; without it, the embedded default.
        use_tqdm: show a progress bar while weights load.
        **options: fields of :class:`~dovetail.engine.args.EngineArgs`, such as ``dtype``, ``max_model_len``,
            ``hf_overrides`` (a dict, or a callable from and to the configuration's dict); or vLLM's, as far as they are
            supported. None means the default.

    Raises:
        DovetailError: the model cannot be resolved or loaded, with the reason.
    """

    def __init__(self, model: str | Path | None = None, *, use_tqdm: bool = True, **options: Any) -> None:
        try:
            args = EngineArgs(model=None if model is None else str(model), **options)
        except ValidationError as error:
            faults = "; ".join(f"{'.'.join(map(str, e['loc'][:1]))}: {e['msg']}" for e in error.errors())
            raise UsageError(
                f"LLM was given options that do not hold: {faults}", "docs/options.md lists them"
            ) from None
        self._init_engine(args, use_tqdm)

    @classmethod
    def from_engine_args(cls, args: EngineArgs, *, use_tqdm: bool = True) -> LLM:
        """Make an LLM from parsed options, such as those of a command line."""
        llm = cls.__new__(cls)
        llm._init_engine(args, use_tqdm)
        return llm

    def _init_engine(self, args: EngineArgs, use_tqdm: bool) -> None:
        self.llm_engine = engine = LLMEngine(args, use_tqdm=use_tqdm)
        self.args, self.plan = engine.args, engine.plan
        self._tokenizer, self._core = engine.tokenizer, engine.core
        self._adapters = engine.adapters
        self._pooling = OfflinePooling(engine.core, engine.plan, engine.tokenizer)

    def get_tokenizer(self) -> HFTokenizer:
        """The model's tokenizer with the interface of transformers.

        Raises:
            RequestError: there is none (``skip_tokenizer_init``).
        """
        return self.llm_engine.get_tokenizer()

    def get_default_sampling_params(self) -> SamplingParams:
        """The default parameters of :meth:`generate`: the model's own generation configuration."""
        return apply_defaults(None, self.llm_engine.default_params)

    # -- generation

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: ProgressBar = True,
        lora_request: LoRARequests = None,
        priority: Sequence[int] | None = None,
    ) -> list[RequestOutput]:
        """Complete prompts, all together in one continuous batch.

        Args:
            prompts: a text, ``{"prompt": text}``, ``{"prompt_token_ids": ids}`` or a list of ids, or a list of such. A
                mapping may hold a ``cache_salt``, and of a model that sees ``multi_modal_data``: ``{"image": image}`` with
                a ``PIL.Image.Image``, a URL, or a list of these. The text has the model's placeholder for each.
            sampling_params: one for all, or one each; None for the model's defaults.
            use_tqdm: show a progress bar; or a function that makes one.
            lora_request: the LoRA adapter to run with, one for all or one (or None) each; loaded when it is first named.
            priority: one each, lower runs first; under ``scheduling_policy="priority"`` alone.

        Returns:
            One output for each prompt, in order. A completion that fails during generation has the finish reason
                ``error`` and the reason; the others are complete.

        Raises:
            RequestError: a prompt is empty, too long, or of no known shape, a parameter does not fit the model, or a
                grammar does not compile. Nothing has been computed then.
        """
        read = read_prompts(prompts, self._tokenizer, images=True)
        return self._run(read, sampling_params, use_tqdm, priority, lora_request)

    def chat(
        self,
        messages: Messages | Sequence[Messages],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: ProgressBar = True,
        lora_request: LoRARequests = None,
        chat_template: str | None = None,
        chat_template_content_format: ContentFormatOption | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[RequestOutput]:
        """Answer one conversation (a list of messages) or many (a list of such lists).

        Args:
            messages: as in OpenAI's API. Contents may have images: ``{"type": "image_url", "image_url": {"url": …}}``, or
                ``{"type": "image_pil", "image_pil": image}``.
            chat_template_content_format: the content format for the template: ``string``, ``openai`` (a list of parts)
                or ``auto``; by default the option of that name.

        Raises:
            RequestError: the model has no chat template and none is given, or the template refuses the messages.
        """
        prompts = read_conversations(
            messages,
            self._tokenizer,
            placeholder=self.llm_engine.image_placeholder,
            chat_template=chat_template,
            chat_template_content_format=chat_template_content_format,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            tools=tools,
            chat_template_kwargs=chat_template_kwargs,
        )
        return self._run(prompts, sampling_params, use_tqdm, None, lora_request)

    def beam_search(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: BeamSearchParams,
        *,
        use_tqdm: ProgressBar = False,
    ) -> list[BeamSearchOutput]:
        """Search for the likeliest completions of prompts; all beams of all prompts run in one batch.

        Args:
            prompts: as :meth:`generate` takes them.

        Returns:
            For each prompt at most ``beam_width`` sequences, best first.

        Raises:
            RequestError: as :meth:`generate`; or a search of that width needs more logprobs than ``max_logprobs``
                (about half of which is the widest).
        """
        self.llm_engine.limits.check_scores("beam_search")
        eos_ids = find_eos_token_ids(self.plan)
        step = build_step_params(
            params, eos_ids, self.llm_engine.limits.vocab_size, detokenize=self._tokenizer is not None
        )
        if -1 < self.llm_engine.limits.max_logprobs < (step.logprobs or 0):
            raise RequestError(
                f"beam_width is {params.beam_width}, and every step needs {step.logprobs} logprobs; the limit is {self.llm_engine.limits.max_logprobs}",
                f"narrow the search, or set max_logprobs={step.logprobs}",
                param="beam_width",
            )
        read = read_prompts(prompts, self._tokenizer)
        for prompt in read:
            check_request(prompt.token_ids, step, self.llm_engine.limits)
        searches = [BeamSearch(p.token_ids, params, eos_ids, self.llm_engine.limits.max_model_len) for p in read]
        with self._lock_engine(), progress_bar(use_tqdm, params.max_tokens, "Beam search", "token") as bar:
            while running := [(s, p) for s, p in zip(searches, read, strict=True) if s.beams]:
                jobs = [
                    Job(TokenizedPrompt(None, beam.tokens, prompt.cache_salt), step)
                    for search, prompt in running
                    for beam in search.beams
                ]
                outputs = iter(self.llm_engine.runner.run(jobs))
                for search, _ in running:
                    search.extend([_first_position(next(outputs)) for _ in search.beams])
                bar.update()
        results = [BeamSearchOutput(search.best()) for search in searches]
        if self._tokenizer is not None:
            for result in results:
                for sequence in result.sequences:
                    sequence.text = self._tokenizer.decode(sequence.tokens)
        return results

    def _run(
        self,
        prompts: list[TokenizedPrompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None,
        use_tqdm: ProgressBar,
        priority: Sequence[int] | None,
        lora_request: LoRARequests,
    ) -> list[RequestOutput]:
        each = broadcast_to_prompts("sampling parameters", sampling_params, len(prompts))
        priorities: list[int | None] = broadcast_to_prompts("priorities", priority, len(prompts))
        adapters = broadcast_to_prompts("LoRA requests", lora_request, len(prompts))
        jobs = self.llm_engine.build_jobs(prompts, each, priorities, adapters)
        with self._lock_engine(), progress_bar(use_tqdm, len(jobs), "Processed prompts", "prompt") as bar:
            return self.llm_engine.runner.run(jobs, bar.update)

    # -- the engine

    def reset_prefix_cache(self) -> bool:
        """Empty the prefix cache, which is necessary after a change of the weights. Returns whether all was removed."""
        return self.llm_engine.reset_prefix_cache()

    def sleep(self, level: int = 1) -> None:
        """Free the device's memory until :meth:`wake_up`; see :meth:`LLMEngine.sleep`.

        Raises:
            UsageError: there is no such level.
        """
        self.llm_engine.sleep(level)

    def wake_up(self, tags: Sequence[str] | None = None) -> None:
        """Allocate the device's memory again; see :meth:`LLMEngine.wake_up`.

        Raises:
            UsageError: there is no such tag.
        """
        self.llm_engine.wake_up(tags)

    @property
    def is_sleeping(self) -> bool:
        return self.llm_engine.is_sleeping

    def collective_rpc(
        self,
        method: str | Callable[..., Any],
        timeout: float | None = None,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> list[Any]:
        """Call a method of the worker, or a function with it; see :meth:`LLMEngine.collective_rpc`.

        Returns:
            Its result, in a list with one entry.

        Raises:
            UsageError: there is no such method.
        """
        return self.llm_engine.collective_rpc(method, timeout, args, kwargs)

    def apply_model(self, func: Callable[[Any], Any]) -> list[Any]:
        """Call a function with the model, a ``torch.nn.Module``. Returns its result in a list with one entry."""
        return self.llm_engine.apply_model(func)

    def _lock_engine(self) -> AbstractContextManager[None]:
        return self.llm_engine.lock_engine()


def _first_position(output: RequestOutput) -> PositionLogprobs:
    (completion,) = output.outputs
    if not completion.logprobs:
        raise RequestError(f"the search cannot go on: {completion.error or completion.finish_reason}")
    return completion.logprobs[0]
