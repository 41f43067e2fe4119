"""Builds the response object of the Responses API."""

from __future__ import annotations

import time
from contextlib import aclosing
from typing import Any
from uuid import uuid4

from dovetail.engine.request.outputs import Delta
from dovetail.server.context import ServerContext
from dovetail.server.generate.logprobs import TokenFormatter, chat_logprobs
from dovetail.server.generate.response_builders import ResponseBuilder
from dovetail.server.generate.run import Batches
from dovetail.server.generation_job import Job
from dovetail.server.http.errors import ApiError
from dovetail.server.responses.items import Item, given_ids, join_text
from dovetail.server.responses.output_items import Logprobs, OutputItems
from dovetail.server.responses.protocol import ResponsesRequest
from dovetail.server.responses.stream import ResponsesStreamEncoder
from dovetail.server.responses.tools import client_names
from dovetail.server.stored.database import StoreUnavailableError
from dovetail.server.stored.notices import add_notice, not_stored_notice
from dovetail.server.stored.store import DuplicateIdError
from dovetail.server.tools.output_parsing import OutputParsing


class ResponsesResponseBuilder(ResponseBuilder):
    """Builds the response to a Responses request.

    Args:
        input_items: the items of the request.
        store_response: whether to store the response once it has ended.
    """

    def __init__(
        self,
        context: ServerContext,
        body: ResponsesRequest,
        job: Job,
        model: str,
        parsing: OutputParsing,
        input_items: list[Item],
        *,
        store_response: bool,
    ) -> None:
        super().__init__(job, model)
        self.context = context
        self.body = body
        self.parsing = parsing
        self.input_items = input_items
        self.store_response = store_response
        self.id = response_id(body)
        self.named_items = given_ids(body.input)
        self._formatter = TokenFormatter(context.engine.tokenizer)
        self._created = int(time.time())

    def output(self) -> OutputItems:
        """A converter of the completion to output items."""
        return OutputItems(
            self.parsing, self._logprobs if self.body.include_logprobs else None, client_names(self.body.tools or ())
        )

    async def collect_response(self, batches: Batches) -> dict[str, Any]:
        output = self.output()
        async with aclosing(batches):
            async for batch in batches:
                for delta in batch:
                    output.add(delta)
        return await self.finish_response(output)

    def stream_encoder(self) -> ResponsesStreamEncoder:
        return ResponsesStreamEncoder(self)

    async def finish_response(self, output: OutputItems) -> dict[str, Any]:
        """The finished response. It is stored if requested; background responses are stored by their own code."""
        usage = await self._usage(output)
        if output.reason == "length":
            details = {"reason": "max_output_tokens"}
            response = self.response_object("incomplete", output.items, usage=usage, incomplete_details=details)
        else:
            response = self.response_object("completed", output.items, usage=usage, completed_at=int(time.time()))
        if self.store_response and not self.body.background:
            await self._store(response)
        return response

    async def _store(self, response: dict[str, Any]) -> None:
        """Store the finished response. If that is not possible, the response says so, and is delivered all the same."""
        try:
            await self.context.response_store.put(response, self.input_items, self.named_items)
        except (StoreUnavailableError, DuplicateIdError) as error:
            self.store_response = response["store"] = False
            add_notice(not_stored_notice("response", error))

    def failed_response(self, error: ApiError, items: list[Item]) -> dict[str, Any]:
        """The response after an error."""
        return self.response_object("failed", items, error=error_object(error))

    def response_object(self, status: str, items: list[Item], **fields: Any) -> dict[str, Any]:
        """The response object.

        Args:
            items: of the output.
            fields: fields that differ from those of a response that has just started.
        """
        body, params = self.body, self.job.params
        return {
            "id": self.id,
            "object": "response",
            "created_at": self._created,
            "completed_at": None,
            "status": status,
            "background": bool(body.background),
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "max_tool_calls": body.max_tool_calls,
            "model": self.model,
            "output": items,
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": body.previous_response_id,
            "prompt_cache_key": body.prompt_cache_key,
            "reasoning": _reasoning(body),
            "safety_identifier": body.safety_identifier,
            "service_tier": "default",
            "store": self.store_response,
            "temperature": params.temperature,
            "text": _text(body),
            "tool_choice": "auto" if body.tool_choice is None else _dump_choice(body.tool_choice),
            "tools": [tool.model_dump() for tool in body.tools or ()],
            "top_logprobs": body.top_logprobs or 0,
            "top_p": params.top_p,
            "truncation": body.truncation or "disabled",
            "usage": None,
            "user": body.user,
            "metadata": body.metadata or {},
            **fields,
        }

    async def _usage(self, output: OutputItems) -> dict[str, Any]:
        thoughts = "".join(join_text(item["content"]) for item in output.items if item["type"] == "reasoning")
        encode_thoughts = self.context.engine.tokenizer.encode
        reasoning = 0
        if thoughts:
            reasoning = len(
                await self.context.run_in_worker(lambda: encode_thoughts(thoughts, add_special_tokens=False))
            )
        prompt = self.job.num_prompt_tokens
        return {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": output.cached, "cache_write_tokens": 0},
            "output_tokens": output.tokens,
            "output_tokens_details": {"reasoning_tokens": min(reasoning, output.tokens)},
            "total_tokens": prompt + output.tokens,
        }

    def _logprobs(self, delta: Delta) -> Logprobs:
        found = chat_logprobs(self._formatter, delta.token_ids, delta.logprobs or (), self.body.top_logprobs or 0)
        content: Logprobs = found["content"]
        return content


def response_id(body: ResponsesRequest) -> str:
    """The id of the response. A request may set a part of it."""
    return f"resp_{body.request_id or uuid4().hex}"


def error_object(error: ApiError) -> dict[str, str]:
    """An error, as the ``error`` field of a response."""
    code = "rate_limit_exceeded" if error.status == 429 else "server_error" if error.status >= 500 else "invalid_prompt"
    return {"code": code, "message": error.message}


def _reasoning(body: ResponsesRequest) -> dict[str, Any]:
    requested = body.reasoning
    return {
        "effort": requested and requested.effort,
        "summary": requested and (requested.summary or requested.generate_summary),
    }


def _text(body: ResponsesRequest) -> dict[str, Any]:
    requested_format = body.text and body.text.format
    shown = (
        {"type": "text"} if requested_format is None else requested_format.model_dump(by_alias=True, exclude_none=True)
    )
    return {"format": shown, "verbosity": (body.text and body.text.verbosity) or "medium"}


def _dump_choice(choice: Any) -> Any:
    return choice if isinstance(choice, str) else choice.model_dump(exclude_none=True)
