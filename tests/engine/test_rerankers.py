"""Language models that score by the logits of two tokens, against transformers' logits of the same prompts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from dovetail import LLM
from dovetail.api.errors import ConfigError

from ..tiny import write_tokenizer

transformers = pytest.importorskip("transformers")

NO, YES = "n", "y"
RECIPE = {
    "architectures": ["Qwen3ForSequenceClassification"],
    "classifier_from_token": [NO, YES],
    "is_original_qwen3_reranker": True,
}
QUERY = "<Instruct>: Find what answers\n<Query>: Who sat on the mat?\n"
DOCUMENTS = [f"<Document>: {text}\n<think>\n\n</think>\n\n" for text in ("The cat sat.", "Rates were raised.")]


def make(kind: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    config = transformers.Qwen3Config(
        vocab_size=256,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=512,
        initializer_range=0.2,
        **changes,
    )
    return getattr(transformers, kind)(config).eval()


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def original(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("reranker")
    model = make("Qwen3ForCausalLM", tie_word_embeddings=request.param)
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return folder, model


@torch.inference_mode()
def wanted(model: Any, llm: LLM) -> list[float]:
    """The likelihood of the second token, of these two."""
    tokenizer = llm.get_tokenizer()
    ids = tokenizer.convert_tokens_to_ids([NO, YES])
    prompts = [tokenizer.encode(QUERY + document) for document in DOCUMENTS]
    return [float(model(torch.tensor([prompt])).logits[0, -1, ids].softmax(0)[1]) for prompt in prompts]


def test_the_recipe_gives_the_likelihood_of_yes(original: tuple[Path, Any]) -> None:
    folder, model = original
    llm = LLM(folder, runner="pooling", dtype="float32", hf_overrides=RECIPE, use_tqdm=False)
    assert llm.plan.tasks == ("score", "classify")
    scores = wanted(model, llm)
    assert abs(scores[0] - scores[1]) > 1e-3
    found = llm.score(QUERY, DOCUMENTS, use_tqdm=False)
    assert [output.outputs.score for output in found] == pytest.approx(scores, abs=1e-5)
    (same,) = llm.classify(QUERY + DOCUMENTS[0], use_tqdm=False)
    assert same.outputs.probs == pytest.approx(scores[:1], abs=1e-5)


def test_tokens_as_labels(original: tuple[Path, Any]) -> None:
    folder, model = original
    overrides = {**RECIPE, "method": "no_post_processing"}
    llm = LLM(folder, dtype="float32", hf_overrides=overrides, use_tqdm=False)
    assert llm.plan.tasks == ("classify",)
    found = llm.classify([QUERY + document for document in DOCUMENTS], use_tqdm=False)
    assert [output.outputs.probs[1] for output in found] == pytest.approx(wanted(model, llm), abs=1e-5)


def test_a_converted_checkpoint_scores_the_same(original: tuple[Path, Any], tmp_path: Path) -> None:
    folder, model = original
    reference = LLM(folder, runner="pooling", dtype="float32", hf_overrides=RECIPE, use_tqdm=False)
    no, yes = reference.get_tokenizer().convert_tokens_to_ids([NO, YES])
    converted = make("Qwen3ForSequenceClassification", num_labels=1, pad_token_id=0)
    converted.model.load_state_dict(model.model.state_dict())
    converted.score.weight.data = (model.lm_head.weight[yes] - model.lm_head.weight[no])[None].detach()
    converted.save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    llm = LLM(tmp_path, dtype="float32", use_tqdm=False)
    assert "score" in llm.plan.tasks
    scores = [
        [output.outputs.score for output in each.score(QUERY, DOCUMENTS, use_tqdm=False)] for each in (llm, reference)
    ]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)


def test_the_files_of_sentence_transformers_are_enough(original: tuple[Path, Any], tmp_path: Path) -> None:
    folder, model = original
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    kinds = {"": "base.modules.transformer.Transformer", "1_LogitScore": "cross_encoder.modules.logit_score.LogitScore"}
    modules = [{"path": path, "type": f"sentence_transformers.{kind}"} for path, kind in kinds.items()]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    no, yes = LLM(folder, use_tqdm=False).get_tokenizer().convert_tokens_to_ids([NO, YES])
    (tmp_path / "1_LogitScore").mkdir()
    (tmp_path / "1_LogitScore" / "config.json").write_text(json.dumps({"true_token_id": yes, "false_token_id": no}))
    llm = LLM(tmp_path, dtype="float32", use_tqdm=False)
    assert llm.plan.tasks == ("score", "classify")
    scores = [output.outputs.score for output in llm.score(QUERY, DOCUMENTS, use_tqdm=False)]
    assert scores == pytest.approx(wanted(model, llm), abs=1e-5)
    assert LLM(tmp_path, runner="generate", use_tqdm=False).plan.tasks == ("generate",)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"classifier_from_token": [NO, "yes"]}, "classifier_from_token has 'yes', which the vocabulary of"),
        ({"classifier_from_token": [YES]}, "'from_2_way_softmax' is of two tokens, found 1"),
        ({"classifier_from_token": []}, "there is no classifier_from_token"),
        ({"method": "softmax"}, "classifier_method"),
        ({"architectures": ["Qwen3ForCausalLM"]}, "the model qwen3 is for generate"),
        ({"classifier_token_ids": [1, 256]}, "classifier_token_ids has 256, and the vocabulary has 256"),
        ({"classifier_token_ids": [1]}, "classifier_from_token has 2 entries and classifier_token_ids 1"),
    ],
)
def test_what_does_not_fit_is_refused(original: tuple[Path, Any], changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        LLM(original[0], hf_overrides={**RECIPE, **changes}, use_tqdm=False)
