"""``LLM.embed``, ``encode``, ``score`` and ``classify`` on a tiny model that was made for text."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from dovetail import LLM, PoolingParams, SamplingParams
from dovetail.api.errors import RequestError
from dovetail.engine.request.pooling_outputs import EmbeddingRequestOutput

from ..tiny import write_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def llm(folder: Path) -> LLM:
    return LLM(folder, task="embed", use_tqdm=False, max_num_seqs=8)


def test_embeddings_of_texts_and_ids(llm: LLM) -> None:
    outputs = llm.embed(["Hello", {"prompt_token_ids": llm.get_tokenizer().encode("Hello")}, "Bye"], use_tqdm=False)
    assert all(isinstance(output, EmbeddingRequestOutput) and output.finished for output in outputs)
    hello, same, bye = (output.outputs.embedding for output in outputs)
    assert hello == pytest.approx(same, abs=1e-6)
    assert hello != pytest.approx(bye, abs=1e-3)
    assert len(hello) == outputs[0].outputs.hidden_size == 48
    assert math.hypot(*hello) == pytest.approx(1, abs=1e-6)
    assert outputs[0].prompt_token_ids == llm.get_tokenizer().encode("Hello")


def test_parameters_for_all_or_one_each(llm: LLM) -> None:
    plain, mean = llm.embed(
        ["Hello", "Hello"],
        pooling_params=[PoolingParams(use_activation=False), PoolingParams(pooling_type="mean")],
        use_tqdm=False,
    )
    (default,) = llm.embed("Hello", use_tqdm=False)
    length = math.hypot(*plain.outputs.embedding)
    assert length != pytest.approx(1, abs=1e-3)
    assert [x / length for x in plain.outputs.embedding] == pytest.approx(default.outputs.embedding, abs=1e-5)
    assert mean.outputs.embedding != pytest.approx(default.outputs.embedding, abs=1e-3)


def test_encode_gives_tensors(llm: LLM) -> None:
    ((output),) = llm.encode("Hello", pooling_task="embed", use_tqdm=False)
    (embedding,) = llm.embed("Hello", use_tqdm=False)
    assert output.outputs.data.dtype == torch.float32
    assert output.outputs.data.tolist() == pytest.approx(embedding.outputs.embedding, abs=1e-6)


def test_truncation(llm: LLM) -> None:
    cut, whole = llm.embed(["Hello there", "Hello"], truncate_prompt_tokens=5, use_tqdm=False)
    assert cut.prompt_token_ids == whole.prompt_token_ids
    (longest,) = llm.embed("a" * 1000, truncate_prompt_tokens=-1, use_tqdm=False)
    assert len(longest.prompt_token_ids) == 512
    with pytest.raises(RequestError, match="1000 tokens"):
        llm.embed("a" * 1000, use_tqdm=False)


def test_scores_are_cosines(llm: LLM) -> None:
    one_with_many = [output.outputs.score for output in llm.score("Hello", ["Hello", "Bye"], use_tqdm=False)]
    assert one_with_many[0] == pytest.approx(1, abs=1e-6)
    assert one_with_many[1] < 0.999
    pairs = llm.score(["Hello", "Bye"], ["Bye", "Bye"], use_tqdm=False)
    assert [output.outputs.score for output in pairs] == pytest.approx([one_with_many[1], 1], abs=1e-6)
    with pytest.raises(RequestError, match="2 texts and data_2 3"):
        llm.score(["a", "b"], ["a", "b", "c"])


@pytest.fixture(scope="module")
def prompted(tmp_path_factory: pytest.TempPathFactory) -> LLM:
    folder = write_checkpoint(tmp_path_factory.mktemp("prompted"))
    modules = [{"path": "", "type": "a.Transformer"}, {"path": "1_Pooling", "type": "a.Pooling"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": "mean"}))
    prompts = {"prompts": {"query": "q: ", "passage": ""}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    return LLM(folder, use_tqdm=False, max_num_seqs=8)


def test_prompts_before_texts(prompted: LLM) -> None:
    encode = prompted.get_tokenizer().encode

    def ids(prompt: Any, **options: Any) -> list[int]:
        (output,) = prompted.embed(prompt, use_tqdm=False, **options)
        return output.prompt_token_ids

    assert ids("Hello") == ids({"prompt": "Hello"}, prompt_name="query") == encode("q: Hello")
    assert ids("Hello", prompt_name="passage") == ids(encode("Hello")) == encode("Hello")
    assert ids("Hello there", truncate_prompt_tokens=8) == encode("q: Hello")
    (output,) = prompted.encode("Hello", prompt_name="query", use_tqdm=False)
    assert output.prompt_token_ids == encode("q: Hello")
    (score,) = prompted.score("Hello", "Hello", use_tqdm=False)
    assert score.prompt_token_ids == encode("q: Hello") * 2


def test_prompts_that_there_are_none_of(prompted: LLM, llm: LLM) -> None:
    with pytest.raises(RequestError, match="prompt_name is 'document', and the model has the prompts query, passage"):
        prompted.embed("Hello", prompt_name="document")
    with pytest.raises(RequestError, match="a prompt is a list of token ids"):
        prompted.embed([[1, 2]], prompt_name="query")
    with pytest.raises(RequestError, match="prompt_name is 'query', and the model has no prompts"):
        llm.embed("Hello", prompt_name="query")


def test_what_such_a_model_does_not_do(llm: LLM) -> None:
    with pytest.raises(RequestError, match=r"wanted generate, .*does embed \(--task embed"):
        llm.generate("Hello", SamplingParams(max_tokens=1), use_tqdm=False)
    with pytest.raises(RequestError, match="trained to classify"):
        llm.classify("Hello")
    assert len(llm.embed("Hello", use_tqdm=False)) == 1, "it goes on"


@pytest.mark.parametrize(
    ("params", "word"),
    [({"dimensions": 8}, "Matryoshka"), ({"task": "classify"}, "leave task out")],
)
def test_parameters_that_do_not_fit(llm: LLM, params: dict[str, object], word: str) -> None:
    with pytest.raises(RequestError, match=word):
        llm.embed("Hello", pooling_params=PoolingParams(**params))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "params",
    [
        {"task": "generate"},
        {"pooling_type": "max"},
        {"dimensions": 0},
        {"dimensions": True},
        {"truncate_prompt_tokens": -2},
        {"normalize": True, "use_activation": False},
    ],
)
def test_parameters_that_are_none(params: dict[str, object]) -> None:
    with pytest.raises(RequestError, match=next(iter(params))):
        PoolingParams(**params)  # type: ignore[arg-type]


def test_a_model_that_was_trained_for_it_can_be_cut(folder: Path) -> None:
    llm = LLM(folder, convert="embed", hf_overrides={"matryoshka_dimensions": [8, 16]}, use_tqdm=False)
    (whole,) = llm.embed("Hello", use_tqdm=False)
    (cut,) = llm.embed("Hello", pooling_params=PoolingParams(dimensions=8), use_tqdm=False)
    length = math.hypot(*whole.outputs.embedding[:8])
    assert cut.outputs.embedding == pytest.approx([x / length for x in whole.outputs.embedding[:8]], abs=1e-6)
    with pytest.raises(RequestError, match="8, 16"):
        llm.embed("Hello", pooling_params=PoolingParams(dimensions=9))
