"""The groups of options in the help and in ``docs/options.md``, and the most used options."""

from __future__ import annotations

WHAT = "what to run"
HOW = "how to run it"

SERVER: dict[str, tuple[str, ...]] = {
    "address and keys": (
        "host",
        "port",
        "uds",
        "root_path",
        "api_key",
        "api_key_file",
        "ssl_keyfile",
        "ssl_certfile",
        "ssl_ca_certs",
        "ssl_cert_reqs",
        "ssl_ciphers",
    ),
    "limits": (
        "max_request_bytes",
        "receive_timeout",
        "max_concurrent_requests",
        "max_request_choices",
        "max_stored_responses",
        "max_stored_response_bytes",
        "allowed_adapter_path",
        "allow_adapter_downloads",
    ),
    "web pages": (
        "allowed_origins",
        "allowed_methods",
        "allowed_headers",
        "allow_credentials",
        "disable_web_page",
        "disable_fastapi_docs",
    ),
    "logs and metrics": (
        "log_format",
        "log_level",
        "uvicorn_log_level",
        "log_config_file",
        "disable_uvicorn_access_log",
        "disable_access_log_for_endpoints",
        "enable_log_requests",
        "enable_log_outputs",
        "max_log_len",
        "otlp_traces_endpoint",
        "disable_vllm_metrics",
    ),
    "processes": ("api_server_count", "shutdown_timeout", "exit_with_stdin"),
}
"""Group → fields of the server's settings. Fields without a group here belong to :data:`ANSWER_SETTINGS`."""
ANSWER_SETTINGS = "requests and answers"

COMMON = (
    "model",
    "url",
    "input_file",
    "output_file",
    "resume",
    "max_concurrency",
    "system",
    "prompt",
    "temperature",
    "max_tokens",
    "json",
    "num_prompts",
    "request_rate",
    "dataset_name",
    "dataset_path",
    "random_input_len",
    "random_output_len",
    "save_result",
    "input_len",
    "output_len",
    "batch_size",
    "num_iters",
    "output_json",
    "config",
    "host",
    "port",
    "api_key",
    "served_model_name",
    "dtype",
    "max_model_len",
    "max_num_seqs",
    "gpu_memory_utilization",
    "speculative_config",
    "enable_lora",
    "chat_template",
    "log_level",
)
"""Arguments that the short help shows, if the command has them."""


def group_of(added_under: str, name: str) -> str:
    """The group of an option.

    Args:
        added_under: the group's title in the parser; a note in brackets stays at the end.
        name: the option's, with underscores.
    """
    title, bracket, note = added_under.partition(" (")
    if title in ("engine", "resolution", "plugins", "chat"):
        from dovetail.kernel.options import PlanOptions  # imports pydantic, which `dovetail --help` does without

        title = WHAT if name in PlanOptions.model_fields else HOW
    elif title in ("server", "answers"):
        title = next((group for group, names in SERVER.items() if name in names), ANSWER_SETTINGS)
    return title + bracket + note
