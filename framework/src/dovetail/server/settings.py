"""Settings of the server. The command-line flags are made from these fields; the module imports nothing heavy."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from dovetail.utils import logs

API_KEY_VARIABLE = "DOVETAIL_API_KEY"
"""Environment variable that holds API keys."""
FOREIGN_KEY_VARIABLE = "VLLM_API_KEY"
"""Where vLLM looks for its key: read where no other key is given, so that a server that was closed stays so."""
RESERVED_TEMPLATE_KWARGS = frozenset(
    ("self", "messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "chat_template")
)
"""Variables of chat templates that the server sets itself, from fields of the request."""


class ServerSettings(BaseModel):
    """Settings of the HTTP server."""

    model_config = ConfigDict(extra="forbid")

    host: str = Field(
        "127.0.0.1", description="address to listen on; 0.0.0.0 lets other machines in, so give --api-key with it"
    )
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    uds: str | None = Field(None, description="listen on a unix socket at this path, instead of host and port")
    api_key: list[str] = Field(
        [],
        repr=False,
        description="keys, any of which clients must send; without one the server is open. Other users of the machine see command lines: "
        f"{API_KEY_VARIABLE}, which takes several with commas between them, and --api-key-file keep keys to yourself",
    )
    api_key_file: str | None = Field(None, description="file of further keys, one a line; # begins a comment")
    served_model_name: list[str] = Field(
        [], description="names under which clients may ask for the model (default: the model as given)"
    )
    enable_auto_tool_choice: bool = Field(
        True,
        description="let models decide whether they call tools; otherwise requests must say required, none or a name",
    )
    exclude_tools_when_tool_choice_none: bool = Field(
        True,
        description="with tool_choice none, tell the model of no tools; otherwise the prompt shows them, though none may be called",
    )
    response_role: str = Field("assistant", min_length=1, description="role of the answers of the chat route")
    trust_request_chat_template: bool = Field(
        False, description="let requests bring a chat_template, which is a program that the server then runs"
    )
    chat_template_timeout: float = Field(
        10.0,
        gt=0,
        description="seconds that a chat template gets for a conversation; one that needs more is stopped, and the request is refused",
    )
    default_chat_template_kwargs: dict[str, Any] = Field(
        {},
        description="JSON object of variables for the chat template, such as enable_thinking; what a request says comes first",
    )
    return_tokens_as_token_ids: bool = Field(
        False, description="write tokens in logprobs as token_id:7 where a request does not say"
    )
    ignore_unsupported_parameters: bool = Field(
        False,
        description="pass over parameters of requests that are known and not supported, instead of refusing them",
    )
    strict_parameters: bool = Field(
        False,
        description="refuse requests with fields that nobody knows; otherwise these are passed over, and named in the log and in a header of the answer",
    )
    max_request_bytes: int = Field(
        8 * 2**20, ge=1024, description="largest request body; a larger one is refused with status 413"
    )
    receive_timeout: float = Field(
        60.0, gt=0, description="seconds that a client gets to send a request's headers in, and as many for its body"
    )
    max_concurrent_requests: int | None = Field(
        None,
        ge=1,
        description="requests being served at once; past them clients get status 429. Reading status and metrics is not counted",
    )
    max_request_choices: int = Field(1024, ge=1, description="most completions of one request: its prompts times its n")
    max_stored_responses: int = Field(
        1000,
        ge=0,
        description="responses, and chat completions with store, that are kept together, until those go that were longest out of use; 0 keeps none",
    )
    max_stored_response_bytes: int = Field(256 * 2**20, ge=0, description="of all that is kept together")
    allowed_adapter_path: list[str] = Field(
        [],
        description="folders that requests may have LoRA adapters loaded from, with all that is in them; none by default",
    )
    allow_adapter_downloads: bool = Field(
        False, description="let requests have LoRA adapters downloaded from the hub and loaded"
    )
    allowed_origins: list[str] = Field(
        [], description="origins of the web pages that browsers let call this server; * for all, none by default"
    )
    allowed_methods: list[str] = Field(["*"], description="HTTP methods for pages of the allowed origins")
    allowed_headers: list[str] = Field(["*"], description="request headers for pages of the allowed origins")
    allow_credentials: bool = Field(False, description="let pages of the allowed origins send cookies")
    root_path: str = Field("", description="path under which a proxy serves this server, such as /llm")
    ssl_keyfile: str | None = Field(None, description="private key for TLS (PEM)")
    ssl_certfile: str | None = Field(None, description="certificate for TLS (PEM)")
    ssl_ca_certs: str | None = Field(
        None, description="certificate authorities (PEM); clients must then show a certificate that one of them signed"
    )
    ssl_cert_reqs: int | None = Field(
        None,
        ge=0,
        le=2,
        description="certificates of clients: 0 asks for none, 1 verifies those that are sent, 2 demands one; "
        "2 by default with --ssl-ca-certs, else 0",
    )
    ssl_ciphers: str | None = Field(
        None, description="ciphers for TLS up to 1.2, in OpenSSL's notation, such as ECDHE+AESGCM"
    )
    middleware: list[str] = Field(
        [],
        description="module.name of a further ASGI middleware: a class, or an async function of a request and call_next; the last "
        "given sees requests first, and all see them before keys are checked",
    )
    sse_ping_interval: float = Field(
        15.0,
        ge=0,
        description="seconds after which a stream that has nothing to tell sends a comment, so that clients and proxies go on waiting; 0 sends none",
    )
    exit_with_stdin: bool = Field(
        False, description="stop when standard input closes, for a parent that holds its other end and may vanish"
    )
    shutdown_timeout: float = Field(
        5.0,
        ge=0,
        description="seconds that running requests get to end in, when the server is told to stop; new ones are refused then, "
        "and /health says 503",
    )
    api_server_count: int = Field(
        1,
        ge=1,
        le=64,
        description="processes that read requests and write answers, over one engine, for when one of them is what limits the engine",
    )
    uvicorn_log_level: Literal["critical", "error", "warning", "info", "debug", "trace"] = Field(
        "warning", description="how much the HTTP layer logs of its own doings"
    )
    log_format: logs.Format = Field(
        "text", description="of the lines on standard error: text for people, or json, one object a line"
    )
    log_level: logs.Level = Field(
        "info", description="what is logged; info has a line for each request that has ended, and warning has none"
    )
    log_config_file: str | None = Field(
        None,
        description="JSON file for logging.config.dictConfig, in place of --log-format and --log-level; every process of the server reads it",
    )
    disable_uvicorn_access_log: bool = Field(False, description="log no lines for requests that have ended")
    disable_access_log_for_endpoints: str | None = Field(
        None, description="paths whose requests get no such line, with commas between them, such as /health,/metrics"
    )
    otlp_traces_endpoint: str | None = Field(
        None,
        description="URL of an OpenTelemetry collector that gets a span for each request, such as http://localhost:4318/v1/traces "
        "or grpc://localhost:4317; needs the extra otel",
    )
    enable_log_requests: bool = Field(False, description="log what requests ask for: their prompts and parameters")
    enable_log_outputs: bool = Field(
        False, description="log what was answered as well, once it is complete; needs --enable-log-requests"
    )
    max_log_len: int | None = Field(
        None,
        ge=0,
        description="characters of a prompt, and of an output, that --enable-log-requests logs; all without it",
    )
    disable_web_page: bool = Field(False, description="do not serve the web page at /")
    disable_fastapi_docs: bool = Field(False, description="do not serve /docs, /redoc and /openapi.json")
    disable_vllm_metrics: bool = Field(
        False, description="have /metrics show its figures under dovetail: names alone, without vLLM's"
    )

    @field_validator("default_chat_template_kwargs")
    @classmethod
    def _check_template_kwargs(cls, value: dict[str, Any]) -> dict[str, Any]:
        if reserved := sorted(RESERVED_TEMPLATE_KWARGS & value.keys()):
            raise ValueError(f"{', '.join(reserved)} cannot be set here; requests have fields of that name")
        return value

    @model_validator(mode="after")
    def _check_output_log(self) -> Self:
        if self.enable_log_outputs and not self.enable_log_requests:
            raise ValueError("enable_log_outputs needs enable_log_requests")
        return self

    def model_names(self, model: str) -> tuple[str, ...]:
        """The names under which a model is served; the first is its main one."""
        return tuple(dict.fromkeys(self.served_model_name)) or (model,)
