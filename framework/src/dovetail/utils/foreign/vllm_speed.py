"""Options of vLLM that are knobs of speed: compilation, scheduling, loading."""

from __future__ import annotations

from dovetail.utils.foreign.option import Table, accept

OWN_KERNELS = "kernels and graphs are chosen here by what is installed and present"
OWN_SCHEDULER = "the scheduler decides this by itself"

SPEED = Table(
    accept("compilation-config", OWN_KERNELS, "-O", "-cc", "--compilation_config", takes="json"),
    accept("optimization-level performance-mode", OWN_KERNELS),
    accept("kernel-config additional-config ir-op-priority", OWN_KERNELS, takes="json"),
    accept(
        "cudagraph-capture-sizes cuda-graph-sizes",
        "decode steps are captured as graphs for the sizes that occur",
        takes="values",
    ),
    accept(
        "max-cudagraph-capture-size max-seq-len-to-capture max-context-len-to-capture",
        "decode steps are captured as graphs for the sizes that occur",
    ),
    accept("enable-flashinfer-autotune use-fp64-gumbel enable-bf16x3-router-gemm", OWN_KERNELS, takes="switch"),
    accept(
        "moe-backend linear-backend mamba-backend gdn-prefill-backend kda-prefill-backend mamba-ssu-algorithm",
        OWN_KERNELS,
    ),
    accept(
        "disable-cascade-attn enable-flash-late-interaction kv-sharing-fast-prefill jit-monitor-verbose",
        OWN_KERNELS,
        takes="switch",
    ),
    accept("jit-monitor-mode", OWN_KERNELS),
    accept(
        "enable-chunked-prefill", "prompts are always computed in chunks of --max-num-batched-tokens", takes="switch"
    ),
    accept(
        "long-prefill-token-threshold max-num-partial-prefills max-long-partial-prefills scheduler-delay-factor "
        "max-num-scheduled-tokens prefill-schedule-interval watermark max-paddings",
        f"{OWN_SCHEDULER}; --max-decode-slowdown sets how prompts and streams share a step",
    ),
    accept("scheduler-reserve-full-isl", OWN_SCHEDULER, takes="switch"),
    accept("num-scheduler-steps num-lookahead-slots", "steps overlap by themselves (--async-scheduling)"),
    accept(
        "multi-step-stream-outputs disable-async-output-proc",
        "steps overlap by themselves (--async-scheduling)",
        takes="switch",
    ),
    accept(
        "use-v2-block-manager disable-hybrid-kv-cache-manager enable-cumem-allocator",
        "there is one cache manager",
        takes="switch",
    ),
    accept("swap-space", "nothing is swapped: requests that find no room wait and are computed again"),
    accept("preemption-mode", "requests that find no room wait and are computed again"),
    accept("prefix-caching-hash-algo prefix-match-unit", "prefixes are found by a hash of their own"),
    accept(
        "tokenizer-pool-size tokenizer-pool-type renderer-num-workers",
        "texts are tokenized in the processes of --api-server-count",
    ),
    accept("tokenizer-pool-extra-config", "texts are tokenized in the processes of --api-server-count", takes="json"),
    accept(
        "safetensors-load-strategy safetensors-prefetch-block-size safetensors-prefetch-num-threads",
        "weight files are mapped, and read as they are needed",
    ),
    accept("model-loader-extra-config", "weight files are mapped, and read as they are needed", takes="json"),
    accept("pt-load-map-location", "weights go straight to where they are used"),
    accept("ignore-patterns", "only files that installed loaders read are downloaded", takes="values"),
    accept("use-tqdm-on-load", "a bar shows on terminals alone", takes="switch"),
    accept(
        "numa-bind",
        "threads stay where the system puts them; numactl in front of the command binds them",
        takes="switch",
    ),
    accept(
        "numa-bind-cpus numa-bind-nodes",
        "threads stay where the system puts them; numactl in front of the command binds them",
        takes="values",
    ),
    accept("disable-log-stats", "figures are in /metrics, and in no log line", takes="switch"),
    accept(
        "aggregate-engine-logging fail-on-environ-validation", "there is nothing to gather or to check", takes="switch"
    ),
    accept("enable-sleep-mode", "every engine can sleep", takes="switch"),
    accept("calculate-kv-scales", "an FP8 cache needs no scales here", takes="switch"),
)
