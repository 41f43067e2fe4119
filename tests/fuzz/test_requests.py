"""Nasty requests to every route of a whole server: each is answered, with what was asked for or with the error object, and nobody else waits.

Bodies are made of what the server's own description of its API says of the fields, of values that programs forget, and of
sizes up to the limits and past them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest

from ..heartbeat import Heartbeat
from ..serving import Server, serving
from ..tiny import write_checkpoint
from .mutations import NASTY_VALUES, damage_bytes, damage_json, dump_json

JSON = {"Content-Type": "application/json"}
HEALTH_SECONDS = 1.0
"""How long ``/health`` may take beside any of these requests, on a quiet machine."""
ANSWER_SECONDS = 60.0
LEFT_OUT = ("/sleep", "/wake_up")
"""Routes after which others rightly answer 503."""
MESSAGE = {"role": "user", "content": "a"}
BASES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [MESSAGE], "max_tokens": 2, "chat_template": "{{ messages }}"},
    "/v1/completions": {"prompt": "a", "max_tokens": 2},
    "/v1/messages": {"messages": [MESSAGE], "max_tokens": 2},
    "/v1/messages/count_tokens": {"messages": [MESSAGE]},
    "/v1/responses": {"input": "a", "max_output_tokens": 2},
    "/tokenize": {"prompt": "a"},
    "/detokenize": {"tokens": [64]},
    "/invocations": {"prompt": "a", "max_tokens": 2},
    "/score": {"text_1": "a", "text_2": ["a"]},
    "/rerank": {"query": "a", "documents": ["a"]},
}
"""What each of these routes answers with 200 or, without such a model, with its own error."""
LARGE: tuple[Callable[[random.Random], Any], ...] = (
    lambda rng: "a" * rng.choice((100, 10_000, 300_000, 2_000_000)),
    lambda rng: ["a" * rng.choice((1, 100, 1000))] * rng.choice((10, 1000, 5000)),
    lambda rng: [rng.choice((1, 255, 256, -1, 2**31, 2**63))] * rng.choice((1, 1000, 100_000)),
    lambda rng: {f"{i}": rng.choice((1, 0.5, None, "a")) for i in range(rng.choice((10, 1000, 20_000)))},
    lambda rng: [{}] * rng.choice((10, 1000, 70_000)),
    lambda rng: [[]] * rng.choice((10, 1000, 70_000)),
    lambda rng: [MESSAGE] * rng.choice((10, 1000, 20_000)),
    lambda rng: [{"role": "user", "content": [{"type": "text", "text": "a"}] * rng.choice((10, 10_000))}],
    lambda rng: 10 ** rng.choice((18, 19, 30, 255, 300)),
    lambda rng: rng.choice((2**31 - 1, 2**31, 2**63 - 1, 2**63, 2**64, -(2**63) - 1)),
)


@dataclass(frozen=True)
class Route:
    """A route that takes a body.

    Attributes:
        fields: its fields, with their JSON schemas.
        definitions: what the schemas refer to.
    """

    path: str
    fields: dict[str, Any]
    definitions: dict[str, Any]


def find_routes(server: Server) -> list[Route]:
    described = httpx2.get(f"{server.url}/openapi.json").json()
    definitions = described["components"]["schemas"]
    routes = []
    for path, methods in sorted(described["paths"].items()):
        if "post" not in methods or path in LEFT_OUT or "{" in path:
            continue
        content = methods["post"].get("requestBody", {}).get("content", {}).get("application/json", {})
        schema = resolve(content.get("schema", {}), definitions)
        routes.append(Route(path, schema.get("properties", {}), definitions))
    return routes


def resolve(schema: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    while isinstance(schema, dict) and "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    return schema if isinstance(schema, dict) else {}


def value_of(schema: Any, definitions: dict[str, Any], rng: random.Random, depth: int = 0) -> Any:
    """A value as a schema describes it, or nearly."""
    schema = resolve(schema, definitions)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return rng.choice(schema["enum"])
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return value_of(rng.choice(schema[union]), definitions, rng, depth)
    match schema.get("type"):
        case "string":
            return rng.choice(("", "a", "auto", "json", "{}", "user", "x" * rng.choice((1, 64, 200))))
        case "integer":
            return rng.choice((0, 1, 2, 3, 16, 64, 1024, -1, 2**31 - 1))
        case "number":
            return rng.choice((0, 0.5, 1, 2.0, -1.5, 1e-9, 1e300))
        case "boolean":
            return rng.random() < 0.5
        case "array" if depth < 5:
            count = rng.choice((0, 1, 1, 2, 17))
            return [value_of(schema.get("items", {}), definitions, rng, depth + 1) for _ in range(count)]
        case "object" if depth < 5:
            required = schema.get("required", ())
            properties = schema.get("properties", {})
            given = [name for name in properties if name in required or rng.random() < 0.3]
            return {name: value_of(properties[name], definitions, rng, depth + 1) for name in given}
    return rng.choice((None, "a", 1, [], {}))


def build_body(route: Route, rng: random.Random) -> bytes:
    """A request of a route: a good one with some fields of any value, damaged or not."""
    body: Any = dict(BASES.get(route.path, {}))
    if not body:
        body = {
            name: value_of(route.fields[name], route.definitions, rng) for name in route.fields if rng.random() < 0.5
        }
    for _ in range(rng.choice((1, 1, 2, 3, 5))):
        name = rng.choice((*route.fields, *body, "x"))
        match rng.randrange(6):
            case 0:
                body[name] = rng.choice(NASTY_VALUES)
            case 1:
                body[name] = rng.choice(LARGE)(rng)
            case _:
                body[name] = value_of(route.fields.get(name, {}), route.definitions, rng)
    if rng.random() < 0.2 and len(str(body)) < 20_000:
        body = damage_json(json.loads(dump_json(body)), rng)
    raw = dump_json(body)
    return damage_bytes(raw, rng) if rng.random() < 0.05 else raw


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = write_checkpoint(tmp_path_factory.mktemp("tiny"))
    template = folder / "chat_template.jinja"
    template.write_text("{% for message in messages %}{{ message.content }}{% endfor %}")
    with serving(str(folder), "--max-model-len", "64", "--chat-template", str(template)) as running:
        yield running


def attack(server: Server, numbers: range, slowness: float) -> None:
    """Send the requests of these numbers, one after the other."""
    routes = find_routes(server)
    assert len(routes) > 10
    with Heartbeat(server.url) as heart, httpx2.Client(timeout=ANSWER_SECONDS * slowness) as client:
        for number in numbers:
            rng = random.Random(number)
            route = rng.choice(routes)
            body = build_body(route, rng)
            heart.worst = 0.0
            what = f"request {number} to {route.path}: {body[:1500]!r}"
            answer = client.post(server.url + route.path, content=body, headers=JSON)
            assert answer.status_code < 500, f"{what}: {answer.status_code} {answer.text[:500]}"
            if answer.status_code >= 400:
                error = answer.json()["error"]
                assert error["message"], what
                assert len(answer.content) < 4000, f"{what}: {answer.text[:500]}"
            assert "internal error" not in answer.text, what
            assert not heart.failure, f"{what}: {heart.failure}"
            assert heart.worst < HEALTH_SECONDS * slowness, f"{what}: /health took {heart.worst:.2f} s"
            traces = [line for line in server.log if "Traceback" in line]
            assert not traces, f"{what}: {''.join(server.log[-40:])}"


def test_nasty_requests(server: Server, slowness: Callable[[], float]) -> None:
    attack(server, range(100), slowness())


@pytest.mark.sweep
@pytest.mark.parametrize("part", range(20))
def test_many_nasty_requests(server: Server, part: int, slowness: Callable[[], float]) -> None:
    attack(server, range(1000 + part * 500, 1500 + part * 500), slowness())
