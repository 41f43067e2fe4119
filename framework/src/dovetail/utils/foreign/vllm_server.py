"""Options of vLLM's server, and those of other engines' commands beside the engine's."""

from __future__ import annotations

from typing import Any

from dovetail.utils.foreign.option import HOST, PORT, RefusedError, Table, accept, alias, refuse
from dovetail.utils.foreign.vllm_engine import NOT_YET, not_

NO_SUCH_LIMIT = "headers are bounded by the HTTP layer, and bodies by --max-request-bytes"

SERVER = Table(
    alias("disable-log-requests", "enable_log_requests", takes="switch", convert=not_, detail="its opposite"),
    alias("asc", "api_server_count", "-asc"),
    accept("enable-prompt-tokens-details", "every usage has them", takes="switch"),
    accept("enable-request-id-headers", "every answer has one", takes="switch"),
    accept("enable-server-load-tracking", "GET /stats and /metrics show it", takes="switch"),
    accept("disable-frontend-multiprocessing", "the engine has a process of its own always", takes="switch"),
    accept("enable-offline-docs", "the documents of the API at /docs need no network", takes="switch"),
    accept("log-error-stack enable-log-deltas", "--log-level debug says more", takes="switch"),
    accept(
        "tool-server",
        "tools are called by clients",
        only=("",),
        reason="tools are called by clients, and by no server behind this one",
    ),
    accept("h11-max-incomplete-event-size h11-max-header-count", NO_SUCH_LIMIT),
    accept("show-hidden-metrics-for-version", "all metrics are shown"),
    accept(
        "kv-cache-metrics cudagraph-metrics enable-mfu-metrics enable-per-request-metrics",
        "GET /stats and /metrics show what is measured",
        takes="switch",
    ),
    accept("kv-cache-metrics-sample", "GET /stats and /metrics show what is measured"),
    accept("enable-logging-iteration-details", "GET /stats shows what runs", takes="switch"),
    accept("collect-detailed-traces", "spans have all that is measured"),
    accept("disable-cascade-attention", "kernels are chosen here by what is installed", takes="switch"),
    refuse("fingerprint-mode fingerprint-value", "answers bear no fingerprint of the system"),
    accept(
        "prompt-adapters",
        "there are no prompt adapters",
        only=(),
        reason="prompt adapters are not built",
        instead="take a LoRA adapter: --lora-modules",
        takes="values",
    ),
    refuse(
        "enable-force-include-usage",
        "streams have a usage where a request asks for it",
        'send "stream_options": {"include_usage": true}',
        takes="switch",
    ),
    refuse(
        "enable-tokenizer-info-endpoint",
        "the tokenizer is not shown to clients",
        "POST /tokenize and /detokenize use it",
        takes="switch",
    ),
    refuse("enable-ssl-refresh", "certificates are read at the start", "start again when they change", takes="switch"),
    refuse("tool-parser-plugin", "it is a plugin of vLLM", "write one for here: docs/plugins.md"),
    refuse("grpc", "HTTP alone is served", takes="switch"),
    refuse("omni", NOT_YET + ": only text is served", takes="switch"),
)

SCRIPT = Table(
    accept("served-model-name", "nobody asks by name here", takes="values"),
    accept("otlp-traces-endpoint", "the server alone has spans"),
    accept("enable-log-requests disable-log-requests", "requests of a script are not logged", takes="switch"),
)
"""Of vLLM's ``LLM``, beside the engine's."""


def sampling(name: str) -> Any:
    return alias(name, f"extra_body.{name.replace('-', '_')}")


CHAT = Table(
    alias("quick", "prompt", "-q", detail="one message, and its answer"),
    alias("system-prompt", "system"),
    alias("model-name", "model"),
)
"""Of ``vllm chat`` and ``vllm complete``."""

BATCH = Table(
    refuse(
        "enable-metrics",
        "a batch shows its progress on the terminal",
        "dovetail serve has /metrics; run the batch with --url",
        takes="switch",
    ),
    accept("port host", "nothing is listened on: a batch has no metrics server"),
    accept("output-tmp-dir", "answers are written as they come, and --resume goes on with them"),
    accept("max-log-len", "requests of a batch are not logged"),
    accept("enable-log-requests disable-log-requests", "requests of a batch are not logged", takes="switch"),
)
"""Of ``vllm run-batch``, beside the engine's."""


def backend(value: Any) -> dict[str, Any]:
    """vLLM's kinds of servers, of which OpenAI's text routes are measured here."""
    routes = {"openai-chat": "/v1/chat/completions", "openai-comp": "/v1/completions"}
    if value in routes:
        return {"endpoint": routes[value]}
    if value in ("vllm", "openai"):
        return {}
    raise RefusedError("only OpenAI's text routes are measured", "give openai or openai-chat")


BENCH = Table(
    alias("host", HOST, detail="with `--port`, `--url`"),
    alias("port", PORT, detail="with `--host`, `--url`"),
    alias(
        "backend",
        convert=backend,
        detail="`vllm` and `openai` are what is measured anyway, `openai-chat` is `--endpoint /v1/chat/completions`",
    ),
    alias("endpoint-type", convert=backend, detail="as `--backend`"),
    alias("input-len", "random_input_len"),
    alias("output-len", "random_output_len"),
    alias("random-input", "random_input_len"),
    alias("random-output", "random_output_len"),
    *(
        sampling(name)
        for name in (
            "temperature",
            "top-p",
            "top-k",
            "min-p",
            "frequency-penalty",
            "presence-penalty",
            "repetition-penalty",
            "logprobs",
        )
    ),
    alias("use-beam-search", "extra_body.use_beam_search", takes="switch"),
    accept("tokenizer-mode", "prompts are token ids, and need no tokenizer"),
    accept("trust-remote-code disable-tqdm", "nothing of the kind is done", takes="switch"),
    accept("no-stream skip-chat-template", "datasets are taken as they are", takes="switch"),
    accept("ready-check-timeout-sec", "a server that does not answer is told at once"),
    accept("num-warmups", "one request goes before the measured ones"),
    accept("request-id-prefix label metadata", "results have the names that --result-filename gives", takes="values"),
    accept(
        "random-prefix-len random-batch-size",
        "random prompts share nothing",
        only=(0, 1),
        reason="random prompts share nothing",
    ),
    refuse("header", "requests have no headers of their own", "give the key with --api-key", takes="values"),
    refuse("insecure", "certificates are always checked", takes="switch"),
    refuse("disable-shuffle", "conversations are drawn in an order that --seed decides", takes="switch"),
    refuse("no-oversample", "a dataset with too few prompts is refused anyway", takes="switch"),
    refuse("profile append-result plot-timeline plot-dataset-stats", "it is not built", takes="switch"),
    refuse(
        "ramp-up-strategy ramp-up-start-rps ramp-up-end-rps",
        "the rate is the same from beginning to end",
        "give --request-rate",
    ),
    refuse(
        "hf-subset hf-split hf-name hf-output-len sonnet-input-len sonnet-output-len sonnet-prefix-len",
        "that dataset is not read",
        "write its prompts into lines of JSON: --dataset-name custom",
    ),
)
"""Of ``vllm bench``, beside the engine's."""
