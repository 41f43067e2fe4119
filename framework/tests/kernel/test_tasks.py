"""What a model is run for, and how vectors are made."""

from __future__ import annotations

import fnmatch
import json
from pathlib import Path
from typing import Any

import pytest

from dovetail.api import Checkpoint, ConfigError, DovetailError, ModelCard, ResolutionError, UsageError
from dovetail.kernel.options import PlanOptions
from dovetail.kernel.plan_parts import PoolingPlan
from dovetail.kernel.tasks import find_pooling, find_tasks, find_token_score
from dovetail.sources import OTHER_FOLDERS


def card(*tasks: str, **fields: Any) -> ModelCard:
    return ModelCard(
        name="fake", architectures=("Fake",), target="fake:Model", config="fake:Config", tasks=tasks, **fields
    )


DECODER, CLASSIFIER, BOTH = card("generate"), card("classify", pooling="cls"), card("generate", "embed")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return Checkpoint(path=str(tmp_path), files=())


def sentence_transformers(folder: Path, *kinds: str, **modes: Any) -> None:
    modules = [
        {"idx": i, "path": f"{i}_{kind}" if i else "", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 8, **modes}))


@pytest.mark.parametrize(
    ("offered", "options", "tasks"),
    [
        (DECODER, {}, ("generate",)),
        (DECODER, {"convert": "none"}, ("generate",)),
        (DECODER, {"runner": "generate"}, ("generate",)),
        (DECODER, {"task": "generate"}, ("generate",)),
        (DECODER, {"convert": "embed"}, ("embed",)),
        (DECODER, {"task": "embed"}, ("embed",)),
        (DECODER, {"runner": "pooling"}, ("embed",)),
        (DECODER, {"runner": "pooling", "task": "embed", "convert": "embed"}, ("embed",)),
        (BOTH, {}, ("generate", "embed")),
        (BOTH, {"runner": "pooling", "convert": "none"}, ("embed",)),
        (BOTH, {"runner": "generate"}, ("generate",)),
        (CLASSIFIER, {}, ("classify",)),
        (CLASSIFIER, {"runner": "pooling"}, ("classify",)),
        (CLASSIFIER, {"convert": "embed"}, ("classify", "embed")),
        (CLASSIFIER, {"task": "embed"}, ("embed",)),
        (CLASSIFIER, {"task": "classify"}, ("classify",)),
    ],
)
def test_tasks(checkpoint: Checkpoint, offered: ModelCard, options: dict[str, Any], tasks: tuple[str, ...]) -> None:
    found, reason = find_tasks(PlanOptions(**options), offered, checkpoint)
    assert found == tasks
    for name, value in options.items():
        assert (f"--{name} {value}" in reason) == (value != "none")


@pytest.mark.parametrize(("labels", "tasks"), [(1, ("classify", "score")), (2, ("classify",))])
def test_one_label_is_a_score(checkpoint: Checkpoint, labels: int, tasks: tuple[str, ...]) -> None:
    card = CLASSIFIER.model_copy(update={"tasks": ("classify", "score")})
    assert find_tasks(PlanOptions(), card, checkpoint, labels=labels)[0] == tasks
    if labels > 1:
        with pytest.raises(ResolutionError, match=r"offers classify(;|$)"):
            find_tasks(PlanOptions(task="score"), card, checkpoint, labels=labels)


@pytest.mark.parametrize(
    ("offered", "options", "kind", "words"),
    [
        (DECODER, {"task": "classify"}, ResolutionError, ("classify", "offers generate", "--convert embed")),
        (DECODER, {"task": "score"}, ResolutionError, ("score", "offers generate")),
        (DECODER, {"task": "embed", "convert": "none"}, ResolutionError, ("embed", "--convert none")),
        (DECODER, {"runner": "pooling", "convert": "none"}, ResolutionError, ("pooling", "--convert none")),
        (CLASSIFIER, {"runner": "generate"}, ResolutionError, ("generate", "offers classify")),
        (DECODER, {"runner": "generate", "task": "embed"}, UsageError, ("--runner generate", "--task embed")),
        (DECODER, {"runner": "pooling", "task": "generate"}, UsageError, ("--runner pooling", "--task generate")),
        (DECODER, {"runner": "generate", "convert": "embed"}, UsageError, ("--convert embed",)),
        (DECODER, {"task": "classify", "convert": "embed"}, UsageError, ("--task classify", "--convert embed")),
        (DECODER, {"convert": "embed", "speculative_config": {}}, UsageError, ("--speculative-config", "embed")),
    ],
)
def test_what_does_not_fit(
    checkpoint: Checkpoint, offered: ModelCard, options: dict[str, Any], kind: type[DovetailError], words: tuple[str]
) -> None:
    with pytest.raises(kind) as caught:
        find_tasks(PlanOptions(**options), offered, checkpoint)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(
    ("offered", "options", "tasks"),
    [(DECODER, {}, ("embed",)), (BOTH, {}, ("embed",)), (CLASSIFIER, {}, ("classify",))],
)
def test_a_model_that_cannot_generate_makes_vectors(
    checkpoint: Checkpoint, offered: ModelCard, options: dict[str, Any], tasks: tuple[str, ...]
) -> None:
    assert find_tasks(PlanOptions(**options), offered, checkpoint, can_generate=False)[0] == tasks
    for refused in ({"runner": "generate"}, {"task": "generate"}):
        with pytest.raises(ResolutionError, match="every token sees the whole prompt, so it cannot generate"):
            find_tasks(PlanOptions(**refused), offered, checkpoint, can_generate=False)


def test_a_model_of_sentence_transformers_is_run_for_vectors(checkpoint: Checkpoint) -> None:
    sentence_transformers(Path(checkpoint.path), "Transformer", "Pooling", pooling_mode_mean_tokens=True)
    tasks, reason = find_tasks(PlanOptions(), DECODER, checkpoint)
    assert tasks == ("embed",)
    assert "modules.json" in reason
    assert find_tasks(PlanOptions(runner="generate"), DECODER, checkpoint)[0] == ("generate",)


def pooling(checkpoint: Checkpoint, offered: ModelCard = DECODER, config: Any = None, **given: Any) -> PoolingPlan:
    options = PlanOptions(pooler_config=given)
    found = find_pooling(options, offered, checkpoint, config or {}, ("embed",))
    assert found is not None
    return found


def test_pooling_is_the_cards_unless_somebody_says_otherwise(checkpoint: Checkpoint) -> None:
    assert (pooling(checkpoint).type, pooling(checkpoint).normalize) == ("last", True)
    assert pooling(checkpoint, CLASSIFIER).type == "cls"
    assert pooling(checkpoint, pooling_type="MEAN").type == "mean"
    assert pooling(checkpoint, seq_pooling_type="cls", use_activation=False).normalize is False
    assert find_pooling(PlanOptions(), DECODER, checkpoint, {}, ("generate",)) is None


@pytest.mark.parametrize(("mode", "type_"), [("lasttoken", "last"), ("mean_tokens", "mean"), ("cls_token", "cls")])
@pytest.mark.parametrize("normalize", [True, False])
def test_the_files_of_sentence_transformers(checkpoint: Checkpoint, mode: str, type_: str, normalize: bool) -> None:
    kinds = ("Transformer", "Pooling", *(["Normalize"] if normalize else []))
    sentence_transformers(
        Path(checkpoint.path), *kinds, **{f"pooling_mode_{mode}": True, "pooling_mode_max_tokens": False}
    )
    found = pooling(checkpoint)
    assert (found.type, found.normalize, found.reason) == (type_, normalize, "modules.json")
    mixed = pooling(checkpoint, pooling_type="cls")
    assert (mixed.type, mixed.normalize) == ("cls", normalize)
    assert mixed.reason == "--pooler-config, then modules.json"


@pytest.mark.parametrize(
    ("kinds", "modes", "word"),
    [
        (("Transformer", "Pooling", "Dense"), {"pooling_mode_mean_tokens": True}, "Dense"),
        (("Transformer", "Pooling"), {"pooling_mode_max_tokens": True}, "pooling_mode_max_tokens"),
        (("Transformer", "Pooling"), {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, " and "),
        (("Transformer", "Pooling"), {}, "no pooling mode"),
        (("Transformer",), {}, "Pooling"),
    ],
)
def test_files_that_ask_for_more(checkpoint: Checkpoint, kinds: tuple[str], modes: Any, word: str) -> None:
    sentence_transformers(Path(checkpoint.path), *kinds, **modes)
    with pytest.raises(ConfigError, match=word):
        pooling(checkpoint)
    assert pooling(checkpoint, pooling_type="last", normalize=True).type == "last", "the files are not asked then"


@pytest.mark.parametrize(
    ("mode", "type_"),
    [("lasttoken", "last"), ("mean", "mean"), (["cls"], "cls"), ("max", None), (["cls", "mean"], None)],
)
def test_pooling_modes_by_name(checkpoint: Checkpoint, mode: Any, type_: str | None) -> None:
    sentence_transformers(Path(checkpoint.path), "Transformer", "Pooling", pooling_mode=mode)
    if type_ is None:
        with pytest.raises(ConfigError, match=r"says pooling_mode .*, wanted one of lasttoken, mean, cls"):
            pooling(checkpoint)
    else:
        assert pooling(checkpoint).type == type_


def test_a_configuration_says_how_to_pool_before_the_card_and_after_the_files(checkpoint: Checkpoint) -> None:
    def plan(*tasks: Any) -> PoolingPlan:
        found = find_pooling(PlanOptions(), CLASSIFIER, checkpoint, {}, tasks, "mean")
        assert found is not None
        return found

    assert (plan("embed").type, plan("embed").reason) == ("mean", "the configuration")
    sentence_transformers(Path(checkpoint.path), "Transformer", "Pooling", pooling_mode="lasttoken")
    assert (plan("embed").type, plan("classify").type) == ("last", "mean"), "the files are about embeddings"


def prompts_file(checkpoint: Checkpoint, **content: Any) -> None:
    (Path(checkpoint.path) / "config_sentence_transformers.json").write_text(json.dumps(content))


def test_prompts(checkpoint: Checkpoint) -> None:
    sentence_transformers(Path(checkpoint.path), "Transformer", "Pooling", pooling_mode="mean", include_prompt=True)
    assert pooling(checkpoint).prompts == {}
    prompts_file(checkpoint, prompts={"query": "search_query: ", "document": None}, default_prompt_name="query")
    for found in (pooling(checkpoint), pooling(checkpoint, pooling_type="cls", normalize=True)):
        assert (found.prompts, found.default_prompt) == ({"query": "search_query: ", "document": ""}, "query")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"prompts": ["query"]}, "prompts is"),
        ({"prompts": {"query": 1}}, "prompts is"),
        ({"prompts": {"query": "q: "}, "default_prompt_name": "passage"}, "'passage' in .*, whose prompts are query"),
        ({"prompts": {"query": "q: "}, "include_prompt": False}, "include_prompt false"),
    ],
)
def test_prompts_that_are_none(checkpoint: Checkpoint, content: Any, told: str) -> None:
    included = content.get("include_prompt", True)
    sentence_transformers(Path(checkpoint.path), "Transformer", "Pooling", pooling_mode="mean", include_prompt=included)
    prompts_file(checkpoint, **content)
    with pytest.raises(ConfigError, match=told):
        pooling(checkpoint)


LANGUAGE_MODEL = {"architectures": ["NutForCausalLM"], "hidden_size": 8}


def logit_score(checkpoint: Checkpoint, **content: Any) -> None:
    folder = Path(checkpoint.path)
    sentence_transformers(folder, "Transformer", "LogitScore")
    (folder / "1_LogitScore").mkdir()
    (folder / "1_LogitScore" / "config.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("false", "ids", "method"), [(3, [3, 5], "from_2_way_softmax"), (None, [5], "no_post_processing")]
)
def test_a_score_of_tokens(checkpoint: Checkpoint, false: int | None, ids: list[int], method: str) -> None:
    logit_score(checkpoint, true_token_id=5, false_token_id=false)
    found = find_token_score(PlanOptions(), checkpoint, LANGUAGE_MODEL)
    assert found == {
        "architectures": ["NutForSequenceClassification"],
        "hidden_size": 8,
        "classifier_token_ids": ids,
        "classifier_method": method,
    }
    for options in ({"runner": "generate"}, {"convert": "embed"}, {"hf_overrides": {"architectures": ["NutModel"]}}):
        assert find_token_score(PlanOptions(**options), checkpoint, LANGUAGE_MODEL) == LANGUAGE_MODEL


def test_a_score_of_tokens_that_cannot_be_read(checkpoint: Checkpoint) -> None:
    logit_score(checkpoint, true_token_id="yes")
    with pytest.raises(ConfigError, match=r"wanted true_token_id and false_token_id in .*1_LogitScore"):
        find_token_score(PlanOptions(), checkpoint, LANGUAGE_MODEL)
    (Path(checkpoint.path) / "1_LogitScore" / "config.json").write_text(json.dumps({"true_token_id": 5}))
    with pytest.raises(ConfigError, match=r"is for a …ForCausalLM, and architectures is \['NutModel'\]"):
        find_token_score(PlanOptions(), checkpoint, {"architectures": ["NutModel"]})


def test_a_missing_pooling_file_is_named(checkpoint: Checkpoint) -> None:
    sentence_transformers(Path(checkpoint.path), "Transformer", "Pooling", pooling_mode_mean_tokens=True)
    (Path(checkpoint.path) / "1_Pooling" / "config.json").unlink()
    with pytest.raises(ConfigError, match="1_Pooling"):
        pooling(checkpoint)


@pytest.mark.parametrize("given", [{"pooling_type": "max"}, {"pooling_type": 3}, {"normalize": 1}, {"dimension": 3}])
def test_pooler_configs_that_are_none(checkpoint: Checkpoint, given: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(given))):
        pooling(checkpoint, **given)


def test_a_pooler_config_without_vectors_is_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(UsageError, match="--pooler-config"):
        find_pooling(PlanOptions(pooler_config={"normalize": True}), DECODER, checkpoint, {}, ("generate",))


@pytest.mark.parametrize(
    ("config", "dimensions"),
    [
        ({}, None),
        ({"is_matryoshka": False}, None),
        ({"is_matryoshka": True}, ()),
        ({"is_matryoshka": True, "matryoshka_dimensions": [8, 4]}, (4, 8)),
    ],
)
def test_dimensions(checkpoint: Checkpoint, config: dict[str, Any], dimensions: tuple[int, ...] | None) -> None:
    assert pooling(checkpoint, config=config).dimensions == dimensions


@pytest.mark.parametrize("sizes", [[], [0], ["a"], 3, [True]])
def test_dimensions_that_are_none(checkpoint: Checkpoint, sizes: Any) -> None:
    with pytest.raises(ConfigError, match="matryoshka_dimensions"):
        pooling(checkpoint, config={"matryoshka_dimensions": sizes})


def test_the_hub_brings_the_modules_and_nothing_else_in_folders() -> None:
    names = ("1_Pooling/config.json", "onnx/model.json", "config.json")
    assert [name for name in names if fnmatch.fnmatch(name, OTHER_FOLDERS)] == ["onnx/model.json"]
