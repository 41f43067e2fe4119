"""Options of vLLM's engine: those of ``vllm serve``, ``LLM`` and ``EngineArgs`` of about two years."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dovetail.api.errors import UsageError
from dovetail.utils.foreign.option import Table, accept, alias, refuse
from dovetail.utils.foreign.vllm_parallel import ONE_DEVICE, PARALLEL
from dovetail.utils.foreign.vllm_speed import OWN_SCHEDULER, SPEED

NO_VISION = "images are processed in one way"
OWN_MEMORY = "the memory of weights and cache is planned here from what is free"
OWN_FILES = "mistral"
"""vLLM's name for the form in which this company publishes models."""
NOT_YET = "it is not built yet"


def not_(value: Any) -> bool:
    return not value


def speculative_model(value: Any) -> dict[str, Any]:
    """``[name]`` is a method; anything else a draft model."""
    text = str(value)
    if text.startswith("[") and text.endswith("]"):
        return {"speculative_config.method": text[1:-1]}
    return {"speculative_config.model": text}


def structured_outputs(value: Any) -> dict[str, Any]:
    """The parts of vLLM's object that are options of ours; the others choose within its libraries."""
    given = value if isinstance(value, Mapping) else vars(value)
    names = {"backend": "structured_outputs_backend", "reasoning_parser": "reasoning_parser"}
    return {ours: given[theirs] for theirs, ours in names.items() if given.get(theirs)}


def config_format(value: Any) -> dict[str, Any]:
    """
    Raises:
        UsageError: it is no form that is read.
    """
    if value in ("auto", "hf"):
        return {}
    if value == OWN_FILES:
        return {"load_format": value}
    raise UsageError(
        f"--config-format {value}: configurations are read in the form of transformers, or as a loader's files have them",
        "leave it out, or name a loader with --load-format",
    )


def attention(value: Any) -> dict[str, Any]:
    given = value if isinstance(value, Mapping) else vars(value)
    return {"attention_backend": given["backend"]} if given.get("backend") else {}


MODEL = Table(
    alias("rope-scaling", "hf_overrides.rope_scaling", takes="json"),
    alias("rope-theta", "hf_overrides.rope_theta"),
    alias("override-pooler-config", "pooler_config", takes="json"),
    alias(
        "attention-config", "", "-ac", takes="json", convert=attention, detail="`backend` becomes `--attention-backend`"
    ),
    accept(
        "trust-remote-code",
        "code of a checkpoint is never run: architectures come from installed plugins",
        takes="switch",
    ),
    accept("allow-deprecated-quantization", "formats come from installed plugins", takes="switch"),
    accept("code-revision", "code of a checkpoint is never run"),
    accept(
        "tokenizer-mode",
        "the tokenizer is read from what lies in the checkpoint",
        only=("auto", "slow", "hf", "fast", OWN_FILES),
        reason="there is one kind of tokenizer, read from tokenizer.json or a file that is converted to it",
        instead="leave it out",
    ),
    alias(
        "config-format",
        "",
        convert=config_format,
        detail=f"`{OWN_FILES}` becomes `--load-format {OWN_FILES}`; `auto` and `hf` need nothing",
    ),
    refuse(
        "model-weights",
        "weights are read from where the model is",
        "name that place as the model, and give --hf-config-path and --tokenizer",
    ),
    accept("lora-dtype", "adapters are computed in the model's dtype"),
    accept("lora-extra-vocab-size", "an adapter's own tokens are not read"),
    accept("fully-sharded-loras specialize-active-lora enable-mixed-moe-lora-format", ONE_DEVICE, takes="switch"),
    refuse("enable-lora-bias", "adapters with biases are not built", takes="switch"),
    refuse(
        "enable-tower-connector-lora enable-moe-shared-loras",
        "adapters hold the layers of a text model",
        takes="switch",
    ),
    refuse("default-mm-loras", "adapters are chosen by requests", takes="json"),
    refuse(
        "long-lora-scaling-factors",
        "an adapter for longer contexts is not built",
        "give --rope-scaling, and an adapter made with it",
    ),
    refuse(
        "enable-prompt-adapter", "prompt adapters are not built", "take a LoRA adapter: --enable-lora", takes="switch"
    ),
    accept("max-prompt-adapters max-prompt-adapter-token", "there are no prompt adapters"),
    refuse(
        "disable-sliding-window",
        "a model's sliding windows are part of what it computes",
        "lower --max-model-len to the window",
        takes="switch",
    ),
    refuse("enable-prompt-embeds", "prompts are texts and token ids", takes="switch"),
    refuse("enable-return-routed-experts", "answers do not name experts", takes="switch"),
    refuse("io-processor-plugin", "it is a plugin of vLLM", "write one for here: docs/plugins.md"),
    refuse(
        "override-attention-dtype", "attention is computed in the dtype of the activations", "choose that with --dtype"
    ),
    refuse(
        "quantization-param-path kv-cache-dtype-skip-layers",
        "an FP8 cache needs no scales here, and is the same in all layers",
    ),
    refuse(
        "quantization-config",
        "a checkpoint says itself how it is quantized",
        "take a checkpoint that is quantized",
        takes="json",
    ),
    refuse(
        "model-class-overrides",
        "architectures come from installed plugins",
        '--hf-overrides \'{"architectures": ["Name"]}\' takes another',
        takes="json",
    ),
    refuse("override-neuron-config", "that device is not supported", takes="json"),
    refuse("qlora-adapter-name-or-path", "that format of adapters is not built", "take --lora-modules"),
    accept("logits-processor-pattern", "requests bring no code"),
)

CACHES = Table(
    accept(
        "kv-offloading-size",
        OWN_MEMORY,
        only=(0,),
        reason="the cache is not moved to the host's memory",
        instead="raise --gpu-memory-utilization",
    ),
    accept("kv-offloading-backend offload-backend", "nothing is moved to the host's memory"),
    accept(
        "offload-group-size",
        "nothing is moved to the host's memory",
        only=(0,),
        reason="weights are not moved to the host's memory",
        instead="take a smaller or quantized model",
    ),
    accept("offload-num-in-group offload-prefetch-step", "nothing is moved to the host's memory"),
    accept("offload-params cpu-offload-params", "nothing is moved to the host's memory", takes="values"),
    refuse(
        "kv-transfer-config ec-transfer-config",
        "prompts and answers are computed by one engine, which sends its cache to nobody",
        "leave it out",
        takes="json",
    ),
    refuse("kv-events-config", "events of the cache are not published", "GET /stats shows it", takes="json"),
    refuse(
        "weight-transfer-config",
        "weights are not changed while a model runs",
        "start again with the new ones",
        takes="json",
    ),
    accept(
        "mamba-cache-dtype mamba-ssm-cache-dtype mamba-block-size mamba-cache-mode mamba-cache-philox-rounds replayssm-buffer-len",
        "states of that kind are kept by a model's own plugin",
    ),
    accept(
        "use-replayssm enable-mamba-cache-stochastic-rounding",
        "states of that kind are kept by a model's own plugin",
        takes="switch",
    ),
    refuse(
        "profiler-config",
        "no profiler is built in",
        "py-spy, or a device's own profiler, can follow the process",
        takes="json",
    ),
    accept("enable-layerwise-nvtx-tracing", "no profiler is built in", takes="switch"),
)

VISION = Table(
    accept("media-io-kwargs", "images are decoded in one way", takes="json"),
    accept("language-model-only", "nothing of images is computed where none is sent", takes="switch"),
    accept(
        "mm-processor-cache-type mm-shm-cache-max-object-size-mb mm-encoder-tp-mode "
        "mm-encoder-attn-backend mm-encoder-attn-dtype mm-tensor-ipc mm-ipc-gpu-memory-gb mm-hasher-algorithm "
        "mm-encoder-fp8-scale-path mm-encoder-fp8-scale-save-margin mm-encoder-fp8-scale-save-path video-pruning-rate "
        "video-pruning-method image-input-type image-token-id image-input-shape image-feature-size",
        NO_VISION,
    ),
    accept(
        "skip-mm-profiling disable-mm-preprocessor-cache disable-mm-processor-cache interleave-mm-strings disable-chunked-mm-input",
        NO_VISION,
        takes="switch",
    ),
    accept("mm-processor-cache-gb", "DOVETAIL_MM_INPUT_CACHE_GIB is the size of the cache of images"),
    refuse("enable-mm-embeds mm-encoder-only", "images are read, and their embeddings are not", takes="switch"),
)

STRUCTURE = Table(
    alias("guided-decoding-backend", "structured_outputs_backend"),
    alias(
        "structured-outputs-config",
        "",
        takes="json",
        convert=structured_outputs,
        detail="`backend` and `reasoning_parser` become the options of those names",
    ),
    accept(
        "guided-decoding-disable-fallback guided-decoding-disable-any-whitespace guided-decoding-disable-additional-properties",
        "there is one grammar backend, and what it cannot keep is refused",
        takes="switch",
    ),
    accept("enable-reasoning", "reasoning is found by the chat template, or by --reasoning-parser", takes="switch"),
    refuse("reasoning-parser-plugin", "it is a plugin of vLLM", "write one for here: docs/plugins.md"),
    refuse("reasoning-config", "budgets of reasoning are not built", takes="json"),
)

SPECULATION = Table(
    alias("speculative-model", convert=speculative_model, detail="a draft model; `[name]` is a method"),
    alias("num-speculative-tokens", "speculative_config.num_speculative_tokens"),
    alias("ngram-prompt-lookup-max", "speculative_config.prompt_lookup_max"),
    alias("ngram-prompt-lookup-min", "speculative_config.prompt_lookup_min"),
    alias("spec-method", "speculative_config.method"),
    alias("spec-model", "speculative_config.model"),
    alias("spec-tokens", "speculative_config.num_speculative_tokens"),
    accept("speculative-draft-tensor-parallel-size", ONE_DEVICE, "-spec-draft-tp", only=(1,), reason=ONE_DEVICE),
    accept("speculative-disable-mqa-scorer speculative-disable-by-batch-size speculative-max-model-len", OWN_SCHEDULER),
    accept(
        "disable-logprobs-during-spec-decoding", "logprobs are the same with speculation and without", takes="switch"
    ),
    accept(
        "spec-decoding-acceptance-method",
        "drafts are accepted so that the distribution stays the model's own",
        only=("rejection_sampler",),
        reason="drafts are accepted so that the distribution stays the model's own, and in no other way",
    ),
    refuse(
        "typical-acceptance-sampler-posterior-threshold typical-acceptance-sampler-posterior-alpha",
        "drafts are accepted so that the distribution stays the model's own",
    ),
    refuse("speculative-model-quantization", "a draft says itself how it is quantized"),
)

ENGINE = Table(PARALLEL, SPEED, MODEL, CACHES, VISION, STRUCTURE, SPECULATION)
