"""Environment variables of vLLM. Each one that is set gets a line in the log, so that none is ignored silently."""

from __future__ import annotations

import os
from collections.abc import Mapping

PREFIX = "VLLM_"
API_KEY = "VLLM_API_KEY"
"""The variable that is read, in :mod:`dovetail.server.settings`."""

VARIABLES = {
    "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "give --rope-scaling or --hf-overrides: --max-model-len then goes as far",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "give --allowed-adapter-path",
    "VLLM_ATTENTION_BACKEND": "give --attention-backend; the best of what is installed is taken without it",
    "VLLM_CACHE_ROOT": "nothing is kept there; HF_HOME is where downloads go",
    "VLLM_CONFIGURE_LOGGING": "give --log-format and --log-level",
    "VLLM_CPU_KVCACHE_SPACE": "set DOVETAIL_CPU_KVCACHE_SPACE, in GiB as well",
    "VLLM_CPU_OMP_THREADS_BIND": "set OMP_NUM_THREADS, and bind with taskset or numactl in front of the command",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "a server's engine has a process of its own, and a script's has none",
    "VLLM_HOST_IP": "give --host",
    "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "give --receive-timeout and --sse-ping-interval",
    "VLLM_LOGGING_CONFIG_PATH": "give --log-format and --log-level",
    "VLLM_LOGGING_LEVEL": "give --log-level",
    "VLLM_NO_USAGE_STATS": "nothing is sent to anybody, with it or without",
    "VLLM_DO_NOT_TRACK": "nothing is sent to anybody, with it or without",
    "VLLM_PLUGINS": "give --plugins, or set DOVETAIL_PLUGINS",
    "VLLM_PORT": "give --port",
    "VLLM_SERVER_DEV_MODE": "give --log-level debug",
    "VLLM_TARGET_DEVICE": "give --device",
    "VLLM_TORCH_PROFILER_DIR": "no profiler is built in; py-spy can follow the process",
    "VLLM_USE_MODELSCOPE": "models come from the Hugging Face hub, or from a folder that you give",
    "VLLM_USE_V1": "there is one engine",
    "VLLM_WORKER_MULTIPROC_METHOD": "processes are started afresh always",
}
"""Variable → its equivalent here."""


def variable_notices(environment: Mapping[str, str] = os.environ) -> list[str]:
    """A line for each variable with an equivalent here, and one for all others."""
    given = sorted(name for name in environment if name.startswith(PREFIX) and name != API_KEY)
    lines = [f"{name} is set, and is not read: {VARIABLES[name]}" for name in given if name in VARIABLES]
    if others := [name for name in given if name not in VARIABLES]:
        lines.append(f"{', '.join(others)} {'is' if len(others) == 1 else 'are'} set, and not read here")
    return lines
