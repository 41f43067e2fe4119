"""The model on its device: builds it from the Plan, loads it, and runs it step by step.

Letters: T tokens of a step, L logit rows, V vocabulary, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dovetail.api.checkpoint import LazyTensor
from dovetail.api.rope import RopeParameters
from dovetail.engine.engine_request import Request
from dovetail.engine.kv.groups import KVCacheGroup
from dovetail.engine.sampling.edits import LogitEdits
from dovetail.engine.sampling.logprobs import Logprobs, compute_logprobs
from dovetail.engine.sampling.metadata import SamplingMetadata
from dovetail.engine.sampling.sampler import CHUNK, sample
from dovetail.engine.sampling.tables import SamplingTables
from dovetail.engine.step.checked_platform import open_platform
from dovetail.engine.step.decode_graphs import DecodeGraphRunner
from dovetail.engine.step.input_batch import InputBatch, StepWork
from dovetail.engine.step.layer_checks import check_attention_layers
from dovetail.engine.step.memory import check_random_weights, count_elements
from dovetail.engine.step.pooler import PooledVectors, Pooler
from dovetail.kernel.blame import blame, check_class, wrong_answer
from dovetail.kernel.checkpoints import find_naming
from dovetail.kernel.discovery import import_part
from dovetail.kernel.interrupts import watch_interrupts
from dovetail.kernel.plan import Plan
from dovetail.kernel.plan_parts import Part
from dovetail.nn.attention import AttentionBackend, group_layers
from dovetail.nn.checked_parts import CheckedClasses, CheckedNaming, checked_rename, find_suspects, load_tensors
from dovetail.nn.context import Context
from dovetail.nn.experts import Experts
from dovetail.nn.loading import Progress, WeightReader
from dovetail.nn.model import CausalLM, PoolingModel
from dovetail.nn.ops import Ops
from dovetail.nn.placing import WeightChoice
from dovetail.nn.platform import Memory
from dovetail.nn.step import KVIndex, Step

if TYPE_CHECKING:
    from dovetail.engine.step.images import ImageEmbedder

PROMPT_LOGPROBS_CHUNK = 256
"""Prompt tokens whose logits are computed at a time, if a request needs their logprobs."""
KEPT_IMAGE_ROWS = 4096
"""Embeddings of images that are kept, for the next chunks of their prompts and for prompts with the same images."""
DRAWING_BYTES = 50
"""Maximum bytes for each score while tokens are sampled with top-p over the whole vocabulary."""

Fetch = Callable[[], np.ndarray]


@dataclass
class PendingLogprobs:
    """Logprobs that are being copied to the host; see :class:`~dovetail.engine.sampling.logprobs.Logprobs`."""

    logprobs: Fetch
    ranks: Fetch
    top_logprobs: Fetch
    top_ids: Fetch


@dataclass
class PromptLogprobsPart:
    """Logprobs of a part of a request's prompt: those of ``targets``, which follow the tokens from index ``first``
    on.
    """

    request: Request
    first: int
    targets: list[int]
    logprobs: PendingLogprobs


@dataclass
class LaunchedStep:
    """A step in flight on the device.

    Attributes:
        work: what it computes.
        tokens: int64, the sampled token of each logit row. Calling it waits for them.
        logprobs: of those tokens, if a request needs them.
        prompt: logprobs of prompts, if a request needs them.
        pooled: vectors of the prompts that end in it.
    """

    work: StepWork
    tokens: Fetch
    logprobs: PendingLogprobs | None = None
    prompt: list[PromptLogprobsPart] = field(default_factory=list)
    pooled: Sequence[PooledVectors] = ()


class ModelRunner:
    """One model, its KV cache, and the forward pass.

    Args:
        plan: names every part by its import path.
        block_size: tokens in a KV-cache block.
        max_loras, max_lora_rank: LoRA adapters on the device at once, 0 for none, and their largest rank.
        progress: called while loading, with (layers done, layers in all).

    Raises:
        CheckpointError: the checkpoint does not fit the model.
    """

    batch: InputBatch
    sampling: SamplingTables

    def __init__(
        self,
        plan: Plan,
        block_size: int,
        *,
        max_loras: int = 0,
        max_lora_rank: int = 0,
        progress: Progress | None = None,
    ) -> None:
        self.plan = plan
        self.dtype: torch.dtype = getattr(torch, plan.dtype)
        self.block_size = block_size
        self._using_attention = blame(plan.attention.part, "to prepare a step", in_step=True)
        called = _parts_in_a_step(plan)
        self._computing = blame(plan.model_part.part, "to compute a step (forward)", called, in_step=True)
        self._computing_logits = blame(plan.model_part.part, "to compute logits", called, in_step=True)
        with watch_interrupts():
            self._open_device()
        self.max_loras, self.max_lora_rank = max_loras, max_lora_rank
        self.config = plan.build_model_config()
        self.pooler = Pooler(plan, self.platform, self.dtype)
        self.load_model(progress)
        self.images: ImageEmbedder | None = None
        """Made with the first image."""
        self._last_tokens: Tensor | None = None
        self._decode: DecodeGraphRunner | None = None

    def _open_device(self) -> None:
        platform, attention = self.plan.platform.part, self.plan.attention.part
        self.platform = open_platform(platform)
        self.device = self.platform.device
        self.attention: AttentionBackend = _construct(
            attention,
            AttentionBackend,
            f"to start on {self.device}",
            device=self.device,
            dtype=self.dtype,
            kv_dtype=getattr(torch, self.plan.kv_dtype),
            block_size=self.block_size,
        )

    def load_model(self, progress: Progress | None = None) -> None:
        """Build the model and load its weights."""
        with watch_interrupts():
            self._load_model(progress)

    def _load_model(self, progress: Progress | None) -> None:
        platform = self.plan.platform.part
        with blame(platform, "to list its operations"):
            operations = self.platform.operations()
        if not isinstance(operations, Mapping):
            raise wrong_answer(platform, "operations()", operations, "a mapping of names to functions")
        self.ctx = Context(
            device=self.device,
            dtype=self.dtype,
            ops=Ops(operations),
            attention=self.attention,
            max_tokens=self.plan.max_model_len,
            max_loras=self.max_loras,
            max_lora_rank=self.max_lora_rank,
        )
        base = CausalLM if "generate" in self.plan.tasks else PoolingModel
        with torch.inference_mode():
            self.model: CausalLM = _construct(
                self.plan.model_part.part, base, "to build its layers", self.config, self.ctx
            )
            check_attention_layers(self.model, self.ctx, self.plan)
            self.model.to(self.device).eval()
            self._load(progress)
        self.groups = self._build_cache_groups()

    def drop_model(self) -> None:
        """Free the model; :meth:`load_model` makes it again."""
        self.images = None
        del self.model, self.ctx, self.reader

    def _load(self, progress: Progress | None) -> None:
        plan, checked = self.plan, CheckedClasses()
        choices = [
            WeightChoice(
                w.kind,
                w.type,
                checked.format(w.format.part),
                [(k.name, checked.kernel(k)) for k in w.kernels],
                plan.build_quantization_config(w),
                w.format.part.name,
            )
            for w in plan.weights
        ]
        model = plan.model_part.part
        naming = CheckedNaming(model, find_naming(model, plan.naming)) if plan.naming else None
        rename = checked_rename(model, self.model.rename)
        self.reader = WeightReader(self.ctx, choices, plan.config, naming, rename, plan.unread_types)
        expected = self.reader.expected()
        if not plan.checkpoint.files:
            nbytes = count_elements(expected.values()) * self.dtype.itemsize
            check_random_weights(nbytes, self.device_memory(), plan.checkpoint.config_file)
        tensors = load_tensors(plan.loader.part, plan.checkpoint, expected, self.device)
        self.read_weights(tensors, progress)
        with blame(plan.platform.part, "to release memory"):
            self.platform.release()

    def read_weights(self, tensors: Iterable[LazyTensor], progress: Progress | None) -> None:
        """Read the checkpoint's tensors into the layers."""
        plan = self.plan
        self.reader.load(tensors, progress, find_suspects(plan.model_part.part, plan.loader.part, plan.checkpoint))

    @property
    def weight_bytes(self) -> int:
        return sum(layer.nbytes for layer in dict.fromkeys(self.ctx.layers.values()))

    # -- the device

    def device_memory(self) -> Memory:
        """The device's memory now."""
        part = self.plan.platform.part
        with blame(part, "to tell how much memory there is"):
            found = self.platform.memory()
        if not isinstance(found, Memory):
            raise wrong_answer(part, "memory()", found, "a Memory")
        return found

    def cache_room(self, utilization: float, reserved: int) -> int:
        """Bytes for the KV cache; see :meth:`dovetail.nn.Platform.kv_cache_bytes`."""
        part = self.plan.platform.part
        with blame(part, "to tell how much memory the KV cache may take"):
            found = self.platform.kv_cache_bytes(utilization, reserved)
        return _check_bytes(part, "kv_cache_bytes()", found)

    def describe_device(self) -> str:
        """One line for logs."""
        with blame(self.plan.platform.part, "to describe its device"):
            return str(self.platform.describe())

    # -- the KV cache

    def _build_cache_groups(self) -> list[KVCacheGroup]:
        """Group the layers by the positions that they see. Those without a cache are none of the cache's groups; they
        come after those, and only get metadata.
        """
        groups = group_layers(self.ctx.attention_layers)
        self._specs = [group.specs for group in groups]
        cached = [group for group in groups if group.spec.causal]
        part = self.plan.attention.part
        with blame(part, "to tell the size of a block of its cache"):
            found = [[self.attention.block_bytes(layer.spec) for layer in group.layers] for group in cached]
        sizes = [sum(_check_bytes(part, "block_bytes()", size) for size in layers) for layers in found]
        return [
            KVCacheGroup(size, group.spec.window, chunk=group.spec.chunk)
            for group, size in zip(cached, sizes, strict=True)
        ]

    def allocate(self, counts: list[int]) -> None:
        """Allocate a cache for every layer that has one of its own, with its group's number of blocks."""
        for layer in self.ctx.attention_layers:
            if not layer.spec.causal or layer.source is not None:
                continue
            count = counts[layer.group]
            with blame(self.plan.attention.part, f"to allocate {count} blocks of its cache"):
                layer.cache = self.attention.allocate(layer.spec, count)

    def free_cache(self) -> None:
        for layer in self.ctx.attention_layers:
            layer.cache = None

    def activation_bytes(self, max_tokens: int, max_seqs: int, *, images: bool = True) -> int:
        """An estimate of the maximum memory of a step of this many tokens, besides weights and cache.

        At the widest place of a block, three tensors are alive: its input, its parts, and the output of its largest
        layer. Experts have a row for each of a token's experts, which they add in float32. Measured with a model of 135 million parameters and steps of 512 and 1,024 tokens, these took 22 MiB and
        43 MiB; the estimate is 21 and 42. Sampling adds the logits of all requests in float32, and more for those that
        are sampled at a time.
        """
        layers = dict.fromkeys(self.ctx.layers.values())
        linear = (2 * sum(rows for rows, _ in x.local_parts().values()) for x in layers if x.kind == "linear")
        experts = (x.top_k * (3 * x.inner + 3 * x.channels) for x in layers if isinstance(x, Experts))
        widest = max((*linear, *experts), default=0)
        sees = images and self.plan.processor is not None
        tokens = max_tokens * self.dtype.itemsize * (8 * self.config.hidden_size + widest)
        if sees:  # an image is embedded before the step's tokens are computed
            tokens = max(tokens, self.model.image_elements * self.dtype.itemsize) + self._kept_image_bytes
        if self.plan.pooling is not None:  # hidden states in float32, of which means are made
            tokens += max_tokens * 4 * self.config.hidden_size
        length = self.plan.max_model_len
        specs = [spec for group in self._specs for spec in group]
        part = self.plan.attention.part
        with blame(part, "to tell the memory that a step needs"):
            found = [self.attention.workspace_bytes(spec, max_tokens, length) for spec in specs]
        attention = max((_check_bytes(part, "workspace_bytes()", size) for size in found), default=0)
        rows = min(max_seqs, max_tokens)
        scores = self.config.vocab_size * (rows * (self.dtype.itemsize + 4) + min(rows, CHUNK) * DRAWING_BYTES)
        return tokens + attention + scores

    # -- steps

    def bind_batch(
        self, batch: InputBatch, sampling: SamplingTables, *, eager: bool, async_scheduling: bool, max_len: int
    ) -> None:
        """Prepare to run steps of a batch.

        Args:
            eager: do not capture graphs.
            async_scheduling: steps are launched before the last one's tokens have reached the host.
            max_len: tokens of the longest sequence.
        """
        self.batch, self.sampling = batch, sampling
        if self.platform.supports_graphs or async_scheduling:
            rows = batch.tokens.shape[0] + 1
            self._last_tokens = torch.zeros(rows, dtype=torch.int64, device=self.device)
        if self.platform.supports_graphs:
            assert self._last_tokens is not None
            with blame(self.plan.attention.part, "to tell the lengths of captured steps"):
                lengths = tuple(self.attention.capture_lengths(max_len))
            self._decode = DecodeGraphRunner(
                self.platform,
                self._forward,
                batch,
                sampling,
                self._last_tokens,
                lengths,
                ops=self.ctx.ops,
                capture=not eager,
            )

    def clear_graphs(self) -> None:
        if self._decode is not None:
            self._decode.forget()

    def compute_hidden_states(self, step: Step) -> Tensor:
        """Hidden states of a step's tokens, ``[T, C]``."""
        if uncached := len(self._specs) - len(step.kv):
            requests = len(step.seq_lens)
            step.kv += tuple(KVIndex.empty(requests, self.device) for _ in range(uncached))
        with self._using_attention:
            for index, specs in zip(step.kv, self._specs, strict=True):
                index.metadata = self.attention.prepare(step, index, specs)
        if self.ctx.adapters is not None:
            self.ctx.adapters.begin_step(step)
        with self._computing:
            hidden: Any = self.model(step)
        count = step.tokens.shape[0]
        if not (isinstance(hidden, Tensor) and hidden.ndim == 2 and hidden.shape[0] == count):
            raise wrong_answer(self.plan.model_part.part, "forward()", hidden, f"hidden states [{count}, C]")
        return hidden

    def _compute_logits(self, hidden: Tensor) -> Tensor:
        """``[L, C]`` → ``[L, V]``, contiguous."""
        with self._computing_logits:
            logits: Any = self.model.logits(hidden)
        wanted = (hidden.shape[0], self.config.vocab_size)
        if not (isinstance(logits, Tensor) and logits.shape == wanted and logits.is_floating_point()):
            part = self.plan.model_part.part
            raise wrong_answer(part, "logits()", logits, f"floating-point scores {list(wanted)}")
        return logits.contiguous()

    def _forward(self, step: Step) -> Tensor:
        """Logits of a step that samples after each of its tokens."""
        return self._compute_logits(self.compute_hidden_states(step))

    @torch.inference_mode()
    def launch(
        self, work: StepWork, metadata: SamplingMetadata, edits: Callable[[], LogitEdits | None] | None
    ) -> LaunchedStep:
        """Launch a step and its sampling.

        Args:
            metadata: the sampling features of the sampled rows.
            edits: called after the forward pass was launched; may wait for the tokens of the step before. None if there
                cannot be any.
        """
        self.sampling.flush()
        if self._decode is not None and work.is_decode and self._decode.is_worth_it(work):
            plain = SamplingMetadata(has_random=metadata.has_random) if metadata.is_simple and edits is None else None
            sampled, logits, places = self._decode.run(work, plain)
            prompt: list[PromptLogprobsPart] = []
            pooled: Sequence[PooledVectors] = ()
        else:
            step, places = self.batch.build_step(work, self._last_tokens if self._has_in_flight_tokens(work) else None)
            if self.batch.num_image_requests:
                self._embed_images(work, step)
            hidden = self.compute_hidden_states(step)
            prompt = self._prompt_logprobs(work, hidden)
            pooled = self.pooler.pool(self.model, work, hidden) if work.pooled_indices else ()
            sampled = None
            logits = self._compute_logits(hidden[step.logits_indices]) if work.sampled_requests else None
        count = sum(1 + len(d) for d in work.drafts)
        self._mark_device_tokens(work)
        if sampled is None:
            if logits is None:
                return LaunchedStep(work, lambda: np.zeros(0, np.int64), None, prompt, pooled)
            rows, positions = places.rows[:count], places.positions[:count]
            sampled = sample(logits[:count], rows, positions, self.sampling, metadata, edits() if edits else None)
            if self._last_tokens is not None and not any(work.drafts):
                # A request that got no token ends; the step after it may have begun, and must have some token to compute.
                self._last_tokens.index_copy_(0, rows, sampled.inputs)
        logprobs = None if sampled.logprobs is None else self._fetch(sampled.logprobs)
        return LaunchedStep(work, self.platform.fetch(sampled.tokens[:count]), logprobs, prompt, pooled)

    @property
    def has_rope_axes(self) -> bool:
        """Whether rotary positions of images have axes."""
        ropes: dict[str, RopeParameters] = getattr(self.config, "rope", {})
        return any(rope.sections for rope in ropes.values())

    @property
    def _kept_image_bytes(self) -> int:
        return KEPT_IMAGE_ROWS * self.config.hidden_size * self.dtype.itemsize

    def forget_images(self) -> None:
        """Free the embeddings of images. Prompts that still need some have them computed again."""
        if self.images is not None:
            self.images.forget()

    def _embed_images(self, work: StepWork, step: Step) -> None:
        """Add to a step the embeddings of the images that its tokens reach into."""
        if self.images is None:
            # With the first image, since most servers never see one.
            from dovetail.engine.step.images import ImageEmbedder

            self.images = ImageEmbedder(self.plan.model_part.part, self.platform, self._kept_image_bytes)
        if self.ctx.adapters is not None:
            self.ctx.adapters.select_none()
        if (found := self.images.embed(self.model, work)) is not None:
            step.image_indices, step.image_rows = found

    def _mark_device_tokens(self, work: StepWork) -> None:
        # Before edits() is called, not after: a request that ends meanwhile gives its row up, and the row's next owner must not take the token for its own.
        if self._last_tokens is not None:
            self.batch.has_device_token[work.sampled_rows] = not any(work.drafts)

    @staticmethod
    def _has_in_flight_tokens(work: StepWork) -> bool:
        return any(r.num_in_flight_tokens for r in work.requests)

    def _fetch(self, logprobs: Logprobs) -> PendingLogprobs:
        fetch = self.platform.fetch
        return PendingLogprobs(*map(fetch, logprobs))

    def _prompt_logprobs(self, work: StepWork, hidden: Tensor) -> list[PromptLogprobsPart]:
        """Logprobs of the prompt tokens that follow the ones computed in this step, for the requests that need them."""
        found = []
        begin = 0
        for request, count, total in zip(
            work.requests, work.num_scheduled_tokens.tolist(), work.seq_lens.tolist(), strict=True
        ):
            wanted = request.params.prompt_logprobs
            if wanted is not None:
                top = self.config.vocab_size if wanted < 0 else wanted
                last = min(total, request.num_prompt_tokens - 1)
                for first in range(total - count, last, PROMPT_LOGPROBS_CHUNK):
                    stop = min(first + PROMPT_LOGPROBS_CHUNK, last)
                    targets = request.tokens[first + 1 : stop + 1]
                    offset = begin - (total - count)
                    logits = self._compute_logits(hidden[offset + first : offset + stop])
                    ids = self.platform.upload(np.asarray(targets, np.int64))
                    found.append(
                        PromptLogprobsPart(request, first, targets, self._fetch(compute_logprobs(logits, ids, top)))
                    )
            begin += count
        return found


def _parts_in_a_step(plan: Plan) -> list[Part]:
    """Those whose code a model's ``forward`` calls."""
    formats = [weights.format.part for weights in plan.weights]
    kernels = [kernel for weights in plan.weights for kernel in weights.kernels]
    return [plan.platform.part, plan.attention.part, *formats, *kernels]


def _check_bytes(part: Part, what: str, found: Any) -> int:
    if type(found) is not int or found < 0:
        raise wrong_answer(part, what, found, "a number of bytes, 0 or more")
    return found


def _construct(part: Part, base: type, doing: str, *arguments: Any, **options: Any) -> Any:
    """Build an object of the class that a part of the Plan names.

    Raises:
        PluginError: it cannot be imported, is no subclass of ``base``, or its constructor fails.
    """
    found = import_part(part, part.target)
    check_class(part, part.target, found, base)
    with blame(part, doing):
        return found(*arguments, **options)
