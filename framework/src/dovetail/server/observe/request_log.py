"""The log of requests. It never holds headers or the query. It holds prompts and outputs only if that is enabled."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from starlette.types import Scope

from dovetail.engine.request.outputs import Delta
from dovetail.server.engine_protocol import ServedTokenizer
from dovetail.server.generation_job import Job
from dovetail.server.observe.request_records import RequestRecord, current_request
from dovetail.server.settings import ServerSettings
from dovetail.utils import logs

request_logger = logging.getLogger("dovetail.requests")
"""Logger with one line for each finished request."""
prompt_logger = logging.getLogger("dovetail.prompts")
"""A line for each job that begins, with ``--enable-log-requests``, and for each choice that ends, with ``--enable-log-outputs``."""


def request_id() -> str:
    """The id of the current request; empty outside of one."""
    record = current_request.get()
    return record.id if record is not None else ""


def set_up_logs(settings: ServerSettings) -> None:
    """Set up logging as the settings say. Each line carries the id of its request."""
    logs.configure(settings.log_format, settings.log_level, request_id, settings.log_config_file)


MAX_PARAMS_CHARS = 16_384
"""Of a job's parameters, which are written with each of its prompts."""
MAX_ERROR_CHARS = 300
QUOTED = re.compile(r"(?<!\w)(?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")", re.DOTALL)
"""Pattern of a quoted text, as ``repr`` writes it. An apostrophe follows a letter and does not match."""
NAME = re.compile(r"[\w.:/@+-]{1,100}")
"""Pattern of a model's name."""


class RequestLog:
    """Writes a line for each finished request."""

    def __init__(self, settings: ServerSettings) -> None:
        self._off = settings.disable_uvicorn_access_log
        self._quiet = frozenset(filter(None, (settings.disable_access_log_for_endpoints or "").split(",")))

    def add(self, record: RequestRecord, scope: Scope) -> None:
        if self._off or not request_logger.isEnabledFor(logging.INFO) or scope["path"] in self._quiet:
            return
        # Escaped, so that no path can pass for another line.
        fields: dict[str, Any] = {"method": record.method, "path": quote(scope["path"]), "route": record.route or None}
        fields |= {"status": record.status, "client": _client(scope)}
        fields |= request_outcome(record)
        if record.status >= 400 and record.error:
            fields["error"] = describe_error(record)
        request_logger.info(
            "%s %s %d%s",
            record.method,
            fields["path"],
            record.status,
            _format_outcome(fields),
            extra={"fields": fields},
        )


def request_outcome(record: RequestRecord) -> dict[str, Any]:
    """Duration of a request, and its token counts if it generated."""
    found: dict[str, Any] = {"duration": round(time.monotonic() - record.received, 6)}
    if not record.jobs:
        return found
    choices = [choice for job in record.jobs for choice in job.choices]
    firsts = [choice.first for choice in choices if choice.first]
    return found | {
        "prompt_tokens": sum(job.job.num_prompt_tokens for job in record.jobs),
        "output_tokens": sum(choice.tokens for choice in choices),
        "ttft": round(min(firsts) - record.received, 6) if firsts else None,
        "finish_reason": ",".join(dict.fromkeys(choice.reason or "" for choice in choices)),
    }


def _format_outcome(fields: dict[str, Any]) -> str:
    line = f" in {fields['duration']:.3f} s"
    if "prompt_tokens" in fields:
        line += f", {fields['prompt_tokens']} tokens in, {fields['output_tokens']} out"
        line += f", the first after {fields['ttft']:.3f} s" if fields["ttft"] is not None else ""
        line += f", {fields['finish_reason']}"
    return line + (f": {fields['error']}" if "error" in fields else "")


def describe_error(record: RequestRecord) -> str:
    """The reason of a refusal in one line. Quoted texts of the client are left out, because they may be a prompt or
    a key.
    """
    shows_names = record.error_code == "model_not_found"  # without the name, the operator would not know what to serve
    message = QUOTED.sub(lambda text: text[0] if shows_names and NAME.fullmatch(text[0][1:-1]) else "'…'", record.error)
    # Without quotes around it, what is escaped cannot pass for another line either.
    message = repr(message)[1:-1].replace("\\'", "'")
    return message if len(message) <= MAX_ERROR_CHARS else message[:MAX_ERROR_CHARS] + "…"


def _client(scope: Scope) -> str | None:
    client = scope.get("client")
    return f"{client[0]}:{client[1]}" if client else None


class OutputLog:
    """Writes down what a job was answered with, once each choice is complete; see :func:`log_job`."""

    def __init__(self, job: Job, settings: ServerSettings) -> None:
        self._max_chars = settings.max_log_len
        self._job = job
        self._texts: dict[int, list[str]] = {}
        self._tokens: dict[int, int] = {}

    def add(self, deltas: Sequence[Delta]) -> None:
        """The next deltas of any choices."""
        for delta in deltas:
            self._texts.setdefault(delta.index, []).append(delta.text)
            self._tokens[delta.index] = self._tokens.get(delta.index, 0) + len(delta.token_ids)
            if delta.finish_reason is not None:
                self._write(delta.index, delta.finish_reason)

    def __enter__(self) -> OutputLog:
        return self

    def __exit__(self, *_: object) -> None:
        # What was not complete when the request ended: its client left, say.
        for index in list(self._texts):
            self._write(index, None)

    def _write(self, index: int, reason: str | None) -> None:
        number, choice = divmod(index, self._job.params.n)
        fields = {
            "job": f"{self._job.id}-{number}",
            "choice": choice,
            "output": "".join(self._texts.pop(index))[: self._max_chars],
            "output_tokens": self._tokens.pop(index),
            "finish_reason": reason,
        }
        prompt_logger.info(
            "request %s: choice %d, output %r (%d tokens), %s",
            *(fields["job"], fields["choice"], fields["output"], fields["output_tokens"], reason or "not finished"),
            extra={"fields": fields},
        )


def log_job(settings: ServerSettings, tokenizer: ServedTokenizer, job: Job) -> None:
    """Log a job's parameters and its prompts as text, up to ``--max-log-len`` characters, if this is enabled."""
    if not settings.enable_log_requests:
        return
    max_chars = settings.max_log_len
    params = repr(job.params)  # once, since it may hold as many token ids as the vocabulary
    for number, ids in enumerate(job.prompts):
        # A token is seldom without any character, and texts of that many tokens are cut all the same.
        text = tokenizer.decode(ids if max_chars is None else ids[:max_chars])
        fields = {
            "job": f"{job.id}-{number}",
            "prompt": text[:max_chars],
            "prompt_tokens": len(ids),
            "params": params if len(params) <= MAX_PARAMS_CHARS else f"{params[:MAX_PARAMS_CHARS]}…",
        }
        prompt_logger.info(
            "request %s: prompt %r (%d tokens), %s",
            *(fields["job"], fields["prompt"], fields["prompt_tokens"], fields["params"]),
            extra={"fields": fields},
        )
