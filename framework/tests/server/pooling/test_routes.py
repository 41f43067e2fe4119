"""The routes that give vectors, over the fake engine: a vector says how often each remainder of a token id is in the prompt."""

from __future__ import annotations

import base64
import math
import struct
import threading
from typing import Any

import httpx2
import pytest
from server_fakes import FakeEngine

from dovetail.engine.output.pooled import Pooled
from dovetail.kernel.plan_parts import PoolingPlan
from dovetail.server.settings import ServerSettings

EVERY_PATH = (
    "/v1/embeddings",
    "/pooling",
    "/classify",
    "/v1/classify",
    "/score",
    "/v1/score",
    "/rerank",
    "/v1/rerank",
    "/v2/rerank",
)


@pytest.fixture
def engine() -> FakeEngine:
    engine = FakeEngine()
    engine.plan.tasks = ("embed",)
    engine.plan.tasks_reason = "--convert embed"
    engine.plan.pooling = PoolingPlan(type="last", normalize=True, reason="the default")
    return engine


@pytest.fixture
def embed(ask) -> Any:
    def send(**body: Any) -> httpx2.Response:
        return ask("POST", "/v1/embeddings", json=body)

    return send


def float32(values: list[float]) -> list[float]:
    return list(struct.unpack(f"<{len(values)}f", struct.pack(f"<{len(values)}f", *values)))


def vector(ids: list[int], *, normalize: bool = True, width: int = 4) -> list[float]:
    counts = [sum(i % 4 == place for i in ids) for place in range(4)][:width]
    return float32([count / math.hypot(*counts) if normalize else count for count in counts])


A, B = [256, 97], [256, 98]


# -- embeddings


def test_one_text(embed, engine: FakeEngine) -> None:
    answer = embed(input="a", model="fake/model").json()
    assert answer["object"] == "list"
    assert answer["model"] == "fake/model"
    assert answer["id"].startswith("embd-")
    assert answer["data"] == [{"index": 0, "object": "embedding", "embedding": vector(A)}]
    assert answer["usage"] == {
        "prompt_tokens": 2,
        "completion_tokens": 0,
        "total_tokens": 2,
        "prompt_tokens_details": {"cached_tokens": 3},
    }
    assert not engine.running


@pytest.mark.parametrize(
    ("given", "tokens"),
    [
        ("ab", [[256, 97, 98]]),
        (["ab", "c"], [[256, 97, 98], [256, 99]]),
        ([97, 98], [[97, 98]]),
        ([[97], [98, 99]], [[97], [98, 99]]),
    ],
)
def test_forms_of_input(embed, engine: FakeEngine, given: object, tokens: list[list[int]]) -> None:
    answer = embed(input=given).json()
    assert [prompt for prompt, _ in engine.pooled] == tokens
    assert [entry["embedding"] for entry in answer["data"]] == [vector(ids) for ids in tokens]
    assert [entry["index"] for entry in answer["data"]] == list(range(len(tokens)))
    assert answer["usage"]["total_tokens"] == sum(map(len, tokens))


def test_base64_holds_the_same_bits(embed) -> None:
    packed = embed(input=["abc", "d"], encoding_format="base64").json()["data"]
    plain = embed(input=["abc", "d"], encoding_format="float").json()["data"]
    for one, other in zip(packed, plain, strict=True):
        raw = base64.b64decode(one["embedding"])
        assert raw == struct.pack("<4f", *other["embedding"])


def test_a_conversation(embed, engine: FakeEngine) -> None:
    answer = embed(messages=[{"role": "user", "content": "Hi"}])
    assert answer.status_code == 200
    assert [prompt for prompt, _ in engine.pooled] == [[*b"<user>Hi"]]
    assert engine.tokenizer.last["add_generation_prompt"] is False


def test_what_the_engine_is_told(embed, engine: FakeEngine) -> None:
    engine.scheduling_policy = "priority"
    engine.adapters["tuned"] = "somewhere"
    answer = embed(input="a", model="tuned", priority=-3, cache_salt="s", user="u", request_id="mine").json()
    assert engine.options == [{"priority": -3, "cache_salt": "s", "adapter": "tuned"}]
    assert (answer["id"], answer["model"]) == ("embd-mine", "tuned")


@pytest.mark.parametrize("name", ["use_activation", "normalize"])
def test_without_normalisation(embed, name: str) -> None:
    (entry,) = embed(input="aba", **{name: False}).json()["data"]
    assert entry["embedding"] == vector([256, 97, 98, 97], normalize=False)


def test_dimensions(embed, engine: FakeEngine) -> None:
    engine.plan.pooling = PoolingPlan(type="last", normalize=True, dimensions=(2, 3), reason="")
    (entry,) = embed(input="ab", dimensions=2).json()["data"]
    assert entry["embedding"] == vector([256, 97, 98], width=2)
    assert math.isclose(math.hypot(*entry["embedding"]), 1, rel_tol=1e-6)


@pytest.mark.parametrize(("trained", "asked", "word"), [(None, 2, "Matryoshka"), ((2, 3), 1, "2, 3"), ((), 5, "4")])
def test_dimensions_that_the_model_lacks(
    embed, engine: FakeEngine, trained: tuple[int, ...] | None, asked: int, word: str
) -> None:
    engine.plan.pooling = PoolingPlan(type="last", normalize=True, dimensions=trained, reason="")
    response = embed(input="a", dimensions=asked)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "dimensions"
    assert word in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("given", "limit", "side", "tokens"),
    [
        ("abcd", 3, None, [256, 97, 98]),
        ("abcd", 3, "left", [256, 99, 100]),
        ("ab", 3, None, [256, 97, 98]),
        ([97, 98, 99], 2, None, [97, 98]),
        ([97, 98, 99], 2, "left", [98, 99]),
        ("a" * 600, -1, None, [256] + [97] * 511),
    ],
)
def test_truncation(embed, engine: FakeEngine, given: Any, limit: int, side: str | None, tokens: list[int]) -> None:
    assert embed(input=given, truncate_prompt_tokens=limit, truncation_side=side).status_code == 200
    assert engine.pooled[0][0] == tokens


def test_the_whole_context_may_be_used(embed) -> None:
    assert embed(input=[97] * 512).status_code == 200
    error = embed(input=[[97], [97] * 513]).json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert "input[1]" in error["message"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": None}, "input"),
        ({"input": "a", "messages": [{"role": "user", "content": "a"}]}, "input"),
        ({"input": 3}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", 1]}, "input"),
        ({"input": [[1], []]}, "input"),
        ({"input": [999]}, "input"),
        ({"input": [-1]}, "input"),
        ({"input": [True]}, "input"),
        ({"input": "", "add_special_tokens": False}, "input"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "dimensions": "3"}, "dimensions"),
        ({"input": "a", "truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        ({"input": "a", "truncate_prompt_tokens": 513}, "truncate_prompt_tokens"),
        ({"input": "a", "truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
        ({"input": "a", "priority": 3}, "priority"),
        ({"input": "a", "normalize": True, "use_activation": False}, "normalize"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ],
)
def test_what_is_refused(embed, engine: FakeEngine, body: dict[str, Any], param: str) -> None:
    response = embed(**body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert not engine.pooled


def test_too_many_inputs(ask) -> None:
    settings = ServerSettings(max_request_choices=3)
    assert ask("POST", "/v1/embeddings", json={"input": ["a"] * 3}, settings=settings).status_code == 200
    error = ask("POST", "/v1/embeddings", json={"input": ["a"] * 4}, settings=settings).json()["error"]
    assert error["param"] == "input"
    assert "--max-request-choices" in error["message"]


def test_inputs_run_at_once(embed, engine: FakeEngine) -> None:
    engine.delay = 0.2
    response = embed(input=["a"] * 50)
    assert response.elapsed.total_seconds() < 5
    assert len(response.json()["data"]) == 50


@pytest.mark.parametrize(("refused", "status"), [(True, 400), (False, 500)])
def test_a_prompt_that_fails_fails_the_request(embed, engine: FakeEngine, refused: bool, status: int) -> None:
    engine.pool_failure = Pooled(b"", error="it is not finite", is_request_error=refused)
    response = embed(input=["a", "b"])
    assert response.status_code == status
    assert response.json()["error"]["message"].startswith("it is not finite")
    assert not engine.running


def test_a_client_that_leaves_takes_its_prompts_along(live: str, engine: FakeEngine, until) -> None:
    engine.delay = 60

    def ask_and_leave() -> None:
        with pytest.raises(httpx2.ReadTimeout):
            httpx2.post(f"{live}/v1/embeddings", json={"input": ["a", "b", "c"]}, timeout=0.5)

    thread = threading.Thread(target=ask_and_leave)
    thread.start()
    until(lambda: len(engine.running) == 3)
    thread.join()
    until(lambda: len(engine.aborted) == 3)
    assert not engine.running


def test_a_dead_and_a_sleeping_engine(embed, engine: FakeEngine) -> None:
    engine.sleeping = True
    assert embed(input="a").json()["error"]["code"] == "engine_sleeping"
    engine.die()
    assert embed(input="a").json()["error"]["code"] == "engine_dead"


# -- tasks


BODIES: dict[str, dict[str, Any]] = {
    "score": {"text_1": "a", "text_2": "b"},
    "rerank": {"query": "a", "documents": ["b"]},
}


@pytest.mark.parametrize("path", EVERY_PATH)
def test_a_model_without_the_task_is_named_with_its_tasks_and_what_would_help(
    ask, engine: FakeEngine, path: str
) -> None:
    engine.plan.tasks, engine.plan.tasks_reason, engine.plan.pooling = ("generate",), "what it was made for", None
    response = ask("POST", path, json=BODIES.get(path.rpartition("/")[2], {"input": "a"}))
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["code"] == "unsupported_task"
    assert "does generate (what it was made for)" in error["message"]
    helps = "trained to classify" if "classify" in path else "--convert embed"
    assert helps in error["message"]


def test_a_model_for_embeddings_answers_no_chats(chat) -> None:
    response = chat()
    assert response.status_code == 400
    assert "--convert embed" in response.json()["error"]["message"]


# -- pooling


def test_pooling_takes_the_models_task_or_the_one_asked_for(ask, engine: FakeEngine) -> None:
    answer = ask("POST", "/pooling", json={"input": "a"}).json()
    assert answer["data"] == [{"index": 0, "object": "pooling", "data": vector(A)}]
    assert answer["id"].startswith("pool-")
    engine.plan.tasks = ("classify", "embed")
    assert ask("POST", "/pooling", json={"input": "a"}).json()["data"][0]["data"] == vector(A), "embed comes first"
    body = {"input": "a", "task": "classify", "activation": False}
    assert ask("POST", "/pooling", json=body).json()["data"][0]["data"] == vector(A, normalize=False)
    assert ask("POST", "/pooling", json={"input": "a", "task": "score"}).status_code == 400
    error = ask("POST", "/pooling", json={"input": "a", "task": "token_embed"}).json()["error"]
    assert error["param"] == "task"


# -- classification


def test_classification(ask, engine: FakeEngine) -> None:
    engine.plan.tasks = ("classify",)
    engine.plan.config = {"id2label": {"0": "even", "1": "odd"}}
    answer = ask("POST", "/classify", json={"input": ["ae", "b"]}).json()
    assert answer["data"] == [
        {"index": 0, "label": "odd", "probs": float32([1 / 3, 2 / 3, 0, 0]), "num_classes": 4},
        {"index": 1, "label": "even", "probs": [0.5, 0, 0.5, 0], "num_classes": 4},
    ]
    logits = ask("POST", "/v1/classify", json={"input": "c", "use_activation": False}).json()["data"][0]
    assert (logits["label"], logits["probs"]) == ("even", [1, 0, 0, 1])
    unnamed = ask("POST", "/classify", json={"input": [3, 3]}).json()["data"][0]
    assert unnamed["label"] == "LABEL_3"


# -- scores


def test_prompts_before_texts(ask, embed, engine: FakeEngine) -> None:
    engine.plan.pooling = PoolingPlan(
        type="last", normalize=True, reason="", prompts={"query": "aa", "passage": ""}, default_prompt="query"
    )
    queried = vector([256, 97, 97, 98])
    assert embed(input="b").json()["data"][0]["embedding"] == queried
    assert embed(input=["b"], prompt_name="query").json()["data"][0]["embedding"] == queried
    assert embed(input="b", prompt_name="passage").json()["data"][0]["embedding"] == vector(B)
    assert embed(input=B).json()["data"][0]["embedding"] == vector(B), "token ids are whole"
    score = ask("POST", "/score", json={"text_1": "b", "text_2": "b"}).json()
    assert score["usage"]["total_tokens"] == 8


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"input": "b", "prompt_name": "document"}, "the model has the prompts query"),
        ({"input": [256, 97], "prompt_name": "query"}, "prompt_name is for texts in input"),
        ({"messages": [{"role": "user", "content": "b"}], "prompt_name": "query"}, "prompt_name is for texts in input"),
    ],
)
def test_prompts_that_do_not_fit(embed, engine: FakeEngine, body: dict[str, Any], told: str) -> None:
    engine.plan.pooling = PoolingPlan(type="last", normalize=True, reason="", prompts={"query": "aa"})
    answer = embed(**body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "prompt_name"
    assert told in answer.json()["error"]["message"]


def cosine_similarity(a: list[int], b: list[int]) -> float:
    return sum(x * y for x, y in zip(vector(a), vector(b), strict=True))


@pytest.mark.parametrize(
    "names",
    [("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2")],
)
@pytest.mark.parametrize("path", ["/score", "/v1/score"])
def test_one_text_with_many(ask, engine: FakeEngine, path: str, names: tuple[str, str]) -> None:
    answer = ask("POST", path, json={names[0]: "a", names[1]: ["b", "ab", "a"]}).json()
    scores = [entry["score"] for entry in answer["data"]]
    assert scores == pytest.approx([cosine_similarity(A, B), cosine_similarity(A, [256, 97, 98]), 1], abs=1e-6)
    assert [(entry["index"], entry["object"]) for entry in answer["data"]] == [(i, "score") for i in range(3)]
    assert len(engine.pooled) == 4, "the one text is embedded once"
    assert answer["usage"]["total_tokens"] == 9


def test_as_many_with_one_each(ask) -> None:
    answer = ask("POST", "/score", json={"text_1": ["a", "b"], "text_2": ["b", "b"]}).json()
    assert [entry["score"] for entry in answer["data"]] == pytest.approx([cosine_similarity(A, B), 1], abs=1e-6)


def test_scores_of_a_cross_encoder(ask, engine: FakeEngine) -> None:
    engine.plan.tasks = ("embed", "score")
    answer = ask("POST", "/score", json={"text_1": "a", "text_2": ["b", "cc"]}).json()
    assert [prompt for prompt, _ in engine.pooled] == [[256, 97, 256, 98], [256, 97, 256, 99, 99]]
    assert {params.task for _, params in engine.pooled} == {"score"}
    assert [entry["score"] for entry in answer["data"]] == float32([0.5, 0.4])
    engine.pooled.clear()
    ask("POST", "/score", json={"text_1": ["a", "b"], "text_2": ["c", "d"], "activation": False})
    assert [prompt for prompt, _ in engine.pooled] == [[256, 97, 256, 99], [256, 98, 256, 100]]
    assert engine.pooled[0][1].use_activation is False


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"text_1": "a"}, "text_2"),
        ({"text_2": "a"}, "text_1"),
        ({"text_1": "a", "queries": "b", "text_2": "c"}, "queries"),
        ({"text_1": ["a", "b"], "text_2": ["a", "b", "c"]}, "text_1"),
        ({"text_1": ["a", "b"], "text_2": "c"}, "text_1"),
        ({"text_1": [], "text_2": "c"}, "text_1"),
        ({"text_1": 3, "text_2": "c"}, "text_1"),
        ({"text_1": "a", "text_2": "b", "use_activation": True}, "use_activation"),
    ],
)
def test_scores_that_are_refused(ask, body: dict[str, Any], param: str) -> None:
    response = ask("POST", "/score", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


# -- reranking


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_documents_come_in_the_order_of_their_relevance(ask, path: str) -> None:
    documents: list[Any] = ["b", "aa", {"text": "a"}, "c"]
    answer = ask("POST", path, json={"query": "a", "documents": documents, "model": "fake/model"}).json()
    assert set(answer) == {"id", "model", "usage", "results"}
    results = answer["results"]
    assert [result["index"] for result in results] == [2, 1, 0, 3]
    assert results[0]["document"] == {"text": "a"}
    scores = [result["relevance_score"] for result in results]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == pytest.approx(1)


def test_the_best_alone_and_without_documents(ask) -> None:
    body = {"query": "a", "documents": ["b", "a", "c"], "top_n": 1, "return_documents": False}
    (result,) = ask("POST", "/rerank", json=body).json()["results"]
    assert set(result) == {"index", "relevance_score"}
    assert result["index"] == 1
    assert len(ask("POST", "/rerank", json={**body, "top_n": 0}).json()["results"]) == 3
    assert len(ask("POST", "/rerank", json={**body, "top_n": 9}).json()["results"]) == 3


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"documents": ["a"]}, "query"),
        ({"query": "a"}, "documents"),
        ({"query": "a", "documents": []}, "documents"),
        ({"query": "a", "documents": [3]}, "documents[0]"),
        ({"query": "a", "documents": [{"image": "x"}]}, "documents[0]"),
        ({"query": ["a"], "documents": ["a"]}, "query"),
        ({"query": "a", "documents": ["a"], "top_n": -1}, "top_n"),
    ],
)
def test_reranking_that_is_refused(ask, body: dict[str, Any], param: str) -> None:
    response = ask("POST", "/rerank", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_what_is_too_long_is_named(ask) -> None:
    long = "a" * 600
    error = ask("POST", "/rerank", json={"query": long, "documents": ["a"]}).json()["error"]
    assert error["param"] == "query"
    error = ask("POST", "/score", json={"queries": "a", "items": ["b", long]}).json()["error"]
    assert error["param"] == "items"


def test_the_routes_are_described(ask) -> None:
    document = ask("GET", "/openapi.json").json()
    assert set(EVERY_PATH) <= set(document["paths"])
    names = {"EmbeddingRequest", "PoolingRequest", "ClassificationRequest", "ScoreRequest", "RerankRequest"}
    assert names <= set(document["components"]["schemas"])
