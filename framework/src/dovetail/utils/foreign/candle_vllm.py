"""Options of candle-vllm."""

from __future__ import annotations

from typing import Any

from dovetail.utils.foreign.option import FILE, FOLDER, REPOSITORY, Table, accept, alias, refuse
from dovetail.utils.foreign.vllm_parallel import ONE_DEVICE, RUN_SEVERAL

MIB = 2**20


def chunk_size(value: Any) -> dict[str, Any]:
    """0 turns chunked prefill off in candle-vllm, which is not possible here."""
    return {"max_num_batched_tokens": value} if value not in (0, "0") else {}


def sampling(name: str) -> Any:
    return alias(
        name, f"override_generation_config.{name.replace('-', '_')}", detail="the server's default for requests"
    )


MODEL_PARTS = Table(
    alias("m", REPOSITORY, detail="a hub repository; with `--f`, `repository:file`"),
    alias("model-id", REPOSITORY),
    alias("w", FOLDER, detail="the model: a folder; with `--f`, a file in it"),
    alias("weight-path", FOLDER),
    alias("f", FILE, detail="the model: a weight file"),
    alias("weight-file", FILE),
)

CANDLE_ENGINE = Table(
    MODEL_PARTS,
    alias("fp8-kvcache", "kv_cache_dtype", takes="switch", convert=lambda on: "fp8" if on else None, detail="`fp8`"),
    alias(
        "prefill-chunk-size",
        convert=chunk_size,
        detail="`--max-num-batched-tokens`; 0 is left out, since prompts are always computed in chunks",
    ),
    alias("max-gen-tokens", "override_generation_config.max_new_tokens", detail="the most tokens of any answer"),
    *(sampling(name) for name in ("temperature", "top-p", "top-k", "min-p", "frequency-penalty", "presence-penalty")),
    alias("repeat-penalty", "override_generation_config.repetition_penalty"),
    alias("penalty", "override_generation_config.repetition_penalty"),
    alias("gpu-memory-fraction", "gpu_memory_utilization"),
    alias("mem", "kv_cache_memory_bytes", convert=lambda size: int(float(size) * MIB), detail="MiB"),
    alias("kvcache-mem-gpu", "kv_cache_memory_bytes", convert=lambda size: int(float(size) * MIB), detail="MiB"),
    alias("prefix-cache", "enable_prefix_caching", takes="switch"),
    alias("cpu", "device", takes="switch", convert=lambda on: "cpu" if on else None, detail="`cpu`"),
    alias("enforce-parser", "tool_call_parser"),
    accept("prefix-cache-max-tokens", "prefixes take what requests leave of the cache, and give it back"),
    accept("kvcache-mem-cpu", "nothing is swapped: requests that find no room wait and are computed again"),
    accept("holding-time", "requests join the running batch at its next step"),
    accept("multithread", ONE_DEVICE, takes="switch"),
    accept("repeat-last-n", "penalties look at all of the answer"),
    accept(
        "d",
        f"{ONE_DEVICE}, which --device names",
        only=(0, "0"),
        reason=ONE_DEVICE,
        instead="leave it out; CUDA_VISIBLE_DEVICES chooses among several",
    ),
    accept("device-ids", f"{ONE_DEVICE}, which --device names", only=(0, "0"), reason=ONE_DEVICE, instead=RUN_SEVERAL),
    refuse(
        "isq",
        "nothing is quantized while it is loaded",
        "take a checkpoint that is quantized already, such as a weight file of the same model",
    ),
    refuse(
        "num-experts-offload-per-rank",
        "experts are not moved to the host's memory",
        "take a smaller or quantized model",
    ),
    refuse(
        "hf-token-path",
        "the token is not read from a file that an option names",
        "set the variable HF_TOKEN, or HF_TOKEN_PATH",
    ),
    refuse(
        "yarn-scaling-factor",
        "the scaling is an object",
        '--rope-scaling \'{"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}\'',
    ),
    refuse("mcp-command mcp-args mcp-config", "tools are called by clients, and not by the server"),
)

CANDLE_SERVER = Table(
    alias("p", "port"),
    alias("h", "host"),
    alias("verbose", "enable_log_requests", takes="switch"),
    accept("log", "there is a log line for each request, on standard error", takes="switch"),
    accept("ui-server", "there is a web page at / always", takes="switch"),
    refuse(
        "record-conversation",
        "a chat request brings its whole conversation",
        'the Responses API keeps them: "previous_response_id"',
        takes="switch",
    ),
)
