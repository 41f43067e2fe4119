"""A model in this process: the caller adds requests one by one and steps it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from dovetail.api.errors import RequestError, UsageError
from dovetail.engine.adapters.lora_request import LoRARequest
from dovetail.engine.args import OFFLINE_DEFAULTS, EngineArgs
from dovetail.engine.grammars.checks import build_grammar_source, check_structured_outputs
from dovetail.engine.images import make_image_inputs
from dovetail.engine.offline.adapters import OfflineAdapters
from dovetail.engine.offline.cleanup import remember_platform
from dovetail.engine.offline.prompts import Prompt, TokenizedPrompt, read_prompts, require_tokenizer
from dovetail.engine.offline.run import Job, OfflineRunner
from dovetail.engine.offline.worker import Worker
from dovetail.engine.output.processor import OutputProcessor
from dovetail.engine.request.checks import ModelLimits, check_request, check_truncation_with_images, truncate_prompt
from dovetail.engine.request.defaults import apply_defaults, sampling_defaults
from dovetail.engine.request.logits_processors import check_logits_processors
from dovetail.engine.request.model_config import ModelConfig
from dovetail.engine.request.outputs import RequestOutput
from dovetail.engine.request.params import SamplingParams
from dovetail.engine.setup import load_tokenizer, make_plan
from dovetail.engine.step.core import EngineCore
from dovetail.engine.step.memory import explain_out_of_memory
from dovetail.engine.text.hf_tokenizer import HFTokenizer
from dovetail.utils import logs
from dovetail.utils.foreign.variables import variable_notices

if TYPE_CHECKING:
    from dovetail.engine.images.inputs import PromptWithImages
    from dovetail.engine.messages import ImageInput

SLEEP_LEVELS = (1, 2)
WAKE_TAGS = ("weights", "kv_cache")


class LLMEngine:
    """An engine that its caller steps. Most scripts use :class:`~dovetail.engine.offline.llm.LLM`, which steps by
    itself.

    Args:
        args: what to run.
        use_tqdm: show a progress bar while weights load.

    Attributes:
        args, plan: what runs.
        tokenizer: the engine's own; None with ``skip_tokenizer_init``.
        default_params: sampling parameters if a request has none. Its ``max_tokens`` is also an upper limit.

    Raises:
        DovetailError: the model cannot be resolved or loaded, with the reason.
    """

    def __init__(self, args: EngineArgs, *, use_tqdm: bool = True) -> None:
        for notice in variable_notices():
            logs.announce(f"note: {notice}")
        offline = {name: value for name, value in OFFLINE_DEFAULTS.items() if name not in args.model_fields_set}
        self.args = args.model_copy(update=offline)
        self.plan = make_plan(self.args)
        self.tokenizer = (
            None
            if self.args.skip_tokenizer_init
            else load_tokenizer(
                self.plan,
                self.args.chat_template,
                self.args.chat_template_content_format,
                self.args.allow_special_tokens_in_content,
            )
        )
        self.default_params = sampling_defaults(self.plan, self.args)
        self._images = make_image_inputs(self.plan, self.args)
        with tqdm(desc="Loading weights", unit="layer", disable=not use_tqdm, leave=False) as bar:

            def progress(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            with explain_out_of_memory(self.plan.model):
                self.core = EngineCore(self.plan, self.args, progress)
        remember_platform(self.core.runner.platform)
        self.limits = ModelLimits(
            self.core.max_model_len, self.core.vocab_size, self.args.max_logprobs, self.args.logprobs_mode
        )
        self.runner = OfflineRunner(self.core, OutputProcessor(self.tokenizer))
        self.adapters = OfflineAdapters(self.core, self.args)
        self._lock = threading.Lock()  # one call at a time: a second thread waits for the first

    @classmethod
    def from_engine_args(cls, engine_args: EngineArgs, *, use_tqdm: bool = True) -> LLMEngine:
        """Make an engine from parsed options, such as those of a command line."""
        return cls(engine_args, use_tqdm=use_tqdm)

    # -- requests

    def add_request(
        self,
        request_id: str,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        lora_request: LoRARequest | None = None,
        priority: int = 0,
    ) -> None:
        """Queue a request; :meth:`step` computes it.

        Args:
            request_id: must not be in use.
            prompt: one, in any of the forms that :meth:`~dovetail.engine.offline.llm.LLM.generate` accepts.
            params: None for the model's defaults. Their ``output_kind`` decides what :meth:`step` returns.
            lora_request: the LoRA adapter to run with; loaded when it is first named.
            priority: lower runs first, under ``scheduling_policy="priority"`` alone.

        Raises:
            RequestError: the prompt or a parameter does not fit, or the id is in use.
        """
        if params is not None and not isinstance(params, SamplingParams):
            raise RequestError(
                f"params is a {type(params).__name__}",
                "give SamplingParams; for vectors, call LLM.encode",
                param="params",
            )
        read = read_prompts(prompt, self.tokenizer, images=True)
        if len(read) != 1:
            raise RequestError(f"{len(read)} prompts were given", "add one request for each", param="prompt")
        (job,) = self.build_jobs(read, [params], [priority or None], [lora_request])
        with self._lock:
            self.runner.add(str(request_id), job)

    def build_jobs(
        self,
        prompts: Sequence[TokenizedPrompt],
        params: Sequence[SamplingParams | None],
        priorities: Sequence[int | None],
        lora_requests: Sequence[LoRARequest | None],
    ) -> list[Job]:
        """Check requests against the model, and build their jobs. Each argument has one entry per prompt.

        Raises:
            RequestError: a prompt or a parameter does not fit, or there are no priorities; says which.
        """
        if self.args.scheduling_policy != "priority" and any(priority is not None for priority in priorities):
            raise RequestError(
                f"priority was given, and the scheduling policy is {self.args.scheduling_policy}",
                'start with scheduling_policy="priority"',
                param="priority",
            )
        whole = [apply_defaults(each, self.default_params) for each in params]
        for form in {
            build_grammar_source(p.structured_outputs): p.structured_outputs for p in whole if p.structured_outputs
        }.values():
            check_structured_outputs(form, self.plan)
        adapters = [self.adapters.name(request) for request in lora_requests]
        jobs = []
        for prompt, each, priority, adapter in zip(prompts, whole, priorities, adapters, strict=True):
            images: list[ImageInput] | None = None
            if prompt.images:
                placed = self._place_images(prompt, each)
                ids, images = placed.token_ids, placed.images
            else:
                ids = truncate_prompt(prompt.token_ids, each, self.limits.max_model_len)
            check_request(ids, each, self.limits)
            if each.logits_processors:
                check_logits_processors(each, self.plan)
            read = TokenizedPrompt(prompt.text, ids, prompt.cache_salt)
            jobs.append(Job(read, each, priority or 0, adapter, images))
        return jobs

    def _place_images(self, prompt: TokenizedPrompt, params: SamplingParams) -> PromptWithImages:
        if self._images is None:
            raise RequestError(
                f"{self.plan.model} takes no images", "give it text, or take a model that sees", param="prompt"
            )
        check_truncation_with_images(params)
        return self._images.prepare(prompt.token_ids, prompt.images)

    @property
    def image_placeholder(self) -> str:
        """What stands for an image in a text for the model; empty if it takes none."""
        if self._images is None or self.tokenizer is None:
            return ""
        return self._images.placeholder_text(self.tokenizer.id_to_token(self._images.processor.placeholder))

    def step(self) -> list[RequestOutput]:
        """Compute one step for all requests together.

        Returns:
            An output for each request with new tokens (tokens of this step may be returned by the next one). With the
                parameters' ``output_kind`` CUMULATIVE it has everything so far, with DELTA only what is new; with
                FINAL_ONLY it is returned when the request is finished.
        """
        with self.lock_engine():
            return self.runner.step()

    def abort_request(self, request_id: str | Sequence[str]) -> None:
        """Abort one request or several; they return no more outputs. Unknown ids are ignored."""
        with self._lock:
            self.runner.abort([request_id] if isinstance(request_id, str) else request_id)

    def has_unfinished_requests(self) -> bool:
        return self.runner.num_unfinished > 0

    def get_num_unfinished_requests(self) -> int:
        return self.runner.num_unfinished

    # -- the model

    @cached_property
    def model_config(self) -> ModelConfig:
        """The main facts about the running model."""
        return ModelConfig.from_plan(self.plan, self.limits.max_model_len)

    def get_model_config(self) -> ModelConfig:
        return self.model_config

    @cached_property
    def _hf_tokenizer(self) -> HFTokenizer:
        return HFTokenizer.from_plan(require_tokenizer(self.tokenizer, "get_tokenizer"), self.plan)

    def get_tokenizer(self) -> HFTokenizer:
        """The model's tokenizer with the interface of transformers.

        Raises:
            RequestError: there is none (``skip_tokenizer_init``).
        """
        return self._hf_tokenizer

    def reset_prefix_cache(self) -> bool:
        """Empty the prefix cache, which is necessary after a change of the weights. Returns whether all was removed."""
        with self._lock:
            return self.core.reset_prefix_cache()

    def sleep(self, level: int = 1) -> None:
        """Free the device's memory until :meth:`wake_up`.

        Args:
            level: 1 keeps the weights in the host's memory, 2 drops them.

        Raises:
            UsageError: there is no such level.
        """
        if level not in SLEEP_LEVELS or isinstance(level, bool):
            raise UsageError(f"the level of sleep is {level!r}", f"wanted one of {SLEEP_LEVELS}")
        with self._lock:
            self.core.sleep(level)

    def wake_up(self, tags: Sequence[str] | None = None) -> None:
        """Allocate the device's memory again.

        Args:
            tags: the parts to restore, of ``weights`` and ``kv_cache``; None for both.

        Raises:
            UsageError: there is no such tag.
        """
        if isinstance(tags, str) or any(tag not in WAKE_TAGS for tag in tags or ()):
            raise UsageError(f"the tags are {tags!r}", f"wanted a list of {' and '.join(WAKE_TAGS)}, or None for both")
        with self._lock:
            self.core.wake_up(None if tags is None else list(tags))

    @property
    def is_sleeping(self) -> bool:
        return self.core.is_sleeping

    def collective_rpc(
        self,
        method: str | Callable[..., Any],
        timeout: float | None = None,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> list[Any]:
        """Call a method of each worker. There is one (:class:`~dovetail.engine.offline.worker.Worker`).

        Args:
            method: its name, or a function with the worker as its first argument.
            timeout: must be None, because the call runs in this process.
            args, kwargs: of the method.

        Returns:
            Its result, in a list with one entry.

        Raises:
            UsageError: there is no such method, or a timeout was given.
        """
        if timeout is not None:
            raise UsageError(f"timeout is {timeout}, and a call in this process cannot be cut off", "leave it out")
        with self._lock:
            return [Worker(self.core).call(method, args, kwargs)]

    def apply_model(self, func: Callable[[Any], Any]) -> list[Any]:
        """Call a function with the model, a ``torch.nn.Module``. Returns its result in a list with one entry.

        Hooks on its modules work. Weights are stored in the kernels, not in ``parameters()``. Call
        :meth:`reset_prefix_cache` after a function that changes what the model computes.
        """
        with self._lock:
            return [func(Worker(self.core).get_model())]

    @contextmanager
    def lock_engine(self) -> Iterator[None]:
        """Lock the engine for this thread.

        Raises:
            RequestError: it sleeps.
        """
        with self._lock:
            if self.core.is_sleeping:
                raise RequestError("the model sleeps", "call wake_up() first")
            yield
