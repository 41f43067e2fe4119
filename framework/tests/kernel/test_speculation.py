"""Speculative decoding in the Plan: who guesses, with which options, and which models go together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field

from dovetail.api import AttentionRequirement, DovetailError, PluginError, ProposerCard, ResolutionError, UsageError
from dovetail.kernel.plan import Plan, render

from .fakes import TinyConfig, attention, kernel, model
from .installation import configure, plan, weights

ANY_DTYPE = {"kernel": kernel("matmul", "dense", dtypes=("float32", "bfloat16", "float16"))}


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid")

    reach: int = Field(default=3, gt=0)


class RecurrentConfig(TinyConfig):
    def attention_requirements(self) -> tuple[AttentionRequirement, ...]:
        return (AttentionRequirement(features=frozenset({"recurrent"}), head_dim=8),)


def proposer(name: str = "seer", **claims: Any) -> ProposerCard:
    return ProposerCard(name=name, target="s:S", **{"config": f"{__name__}:Options", **claims})


def drafting(name: str = "small", **claims: Any) -> ProposerCard:
    return proposer(name, config="dovetail.api:DraftOptions", model=True, **claims)


@pytest.fixture
def draft(tmp_path: Path) -> Path:
    folder = tmp_path / "draft"
    folder.mkdir()
    configure(folder, hidden_size=4)
    weights(folder, float32=1)
    return folder


def test_nobody_guesses_unless_asked_to(folder: Path) -> None:
    found = plan(folder, proposer(), drafting())
    assert (found.proposer, found.proposer_config, found.num_speculative_tokens, found.draft) == (None, {}, 0, None)


def test_a_method_is_taken_by_name_with_its_options(folder: Path) -> None:
    found = plan(folder, proposer(), drafting(), speculative_config={"method": "seer", "reach": 5})
    assert found.proposer is not None
    assert (found.proposer.part.name, found.proposer.part.distribution, found.proposer.part.target) == (
        "seer",
        "more-0",
        "s:S",
    )
    assert found.proposer_config_class == f"{__name__}:Options"
    assert (found.proposer_config, found.num_speculative_tokens, found.draft) == ({"reach": 5}, 4, None)
    assert found.proposer in found.choices()
    text = render(found)
    assert "seer (more-0 1.0): asked for by name" in text
    assert "up to 4 tokens at a time; reach 5" in text


def test_the_number_of_tokens_is_the_card_s_unless_given(folder: Path) -> None:
    card = proposer(num_tokens=7)
    assert plan(folder, card, speculative_config={"method": "seer"}).num_speculative_tokens == 7
    given = {"method": "seer", "num_speculative_tokens": 2}
    assert plan(folder, card, speculative_config=given).num_speculative_tokens == 2
    assert given == {"method": "seer", "num_speculative_tokens": 2}


def test_a_model_alone_is_a_draft(folder: Path, draft: Path) -> None:
    found = plan(
        folder,
        proposer(rank=99),
        drafting(),
        parts=ANY_DTYPE,
        speculative_config={"model": str(draft)},
        dtype="bfloat16",
    )
    assert found.proposer is not None
    assert found.proposer.part.name == "small"
    assert {r.reason for r in found.proposer.rejected} == {"runs no model of its own"}
    assert found.draft is not None
    assert found.draft.config["hidden_size"] == 4
    assert found.draft.dtype == "bfloat16"
    assert found.draft.proposer is None
    assert Plan.model_validate_json(found.model_dump_json()) == found
    assert "draft model\n  model          " in render(found)


def test_a_draft_has_options_of_its_own(folder: Path, draft: Path) -> None:
    config = {"method": "small", "model": str(draft), "dtype": "float16", "max_model_len": 64}
    found = plan(folder, drafting(), parts=ANY_DTYPE, speculative_config=config, dtype="bfloat16")
    assert found.draft is not None
    assert (found.dtype, found.draft.dtype, found.draft.max_model_len) == ("bfloat16", "float16", 64)


@pytest.mark.parametrize(
    ("config", "error", "told"),
    [
        ({}, UsageError, "seer, small) and no model"),
        ({"reach": 2}, UsageError, "names no method"),
        ({"method": "oracle"}, ResolutionError, "wanted the proposer 'oracle', found "),
        ({"method": 3}, UsageError, "method is 3, wanted a name"),
        (
            {"method": "seer", "num_speculative_tokens": 0},
            UsageError,
            "num_speculative_tokens is 0, wanted a whole number",
        ),
        ({"method": "seer", "num_speculative_tokens": True}, UsageError, "num_speculative_tokens is True"),
        ({"method": "seer", "reach": 0}, UsageError, "reach: Input should be greater than 0 (found 0)"),
        ({"method": "seer", "length": 3}, UsageError, "length: Extra inputs are not permitted"),
        ({"method": "seer", "length": 3}, UsageError, "the options of seer: method, num_speculative_tokens, reach"),
        ({"method": "seer", "model": "x"}, UsageError, "model: Extra inputs are not permitted"),
        ({"method": "small"}, UsageError, "model: is missing"),
        ({"model": "/no/such/model"}, DovetailError, "the draft model /no/such/model: "),
    ],
)
def test_what_cannot_be_read_is_refused_by_key(
    folder: Path, config: dict[str, Any], error: type[DovetailError], told: str
) -> None:
    with pytest.raises(error) as refused:
        plan(folder, proposer(), drafting(), speculative_config=config)
    assert told in str(refused.value)


def test_a_draft_of_another_vocabulary_is_refused(folder: Path, draft: Path) -> None:
    configure(draft, vocab_size=17)
    with pytest.raises(ResolutionError, match="its vocabulary has 17 tokens and that of the model 16") as refused:
        plan(folder, drafting(), speculative_config={"model": str(draft)})
    assert str(refused.value).startswith(f"the draft model {draft}: ")


def test_a_draft_that_writes_nothing_is_refused(folder: Path, draft: Path) -> None:
    configure(draft, architectures=["JudgeForCausalLM"])
    judge = model("judge", "JudgeForCausalLM", tasks=("classify",))
    with pytest.raises(ResolutionError, match="it does classify, not generate"):
        plan(folder, drafting(), judge, speculative_config={"model": str(draft)})


def test_states_cannot_be_taken_back(folder: Path, draft: Path) -> None:
    recurrent = model("waves", "WavesForCausalLM", config=f"{__name__}:RecurrentConfig", attention=("recurrent",))
    parts = {"attention": attention("eager", features=("recurrent",))}
    configure(draft, architectures=["WavesForCausalLM"])
    with pytest.raises(ResolutionError, match=f"the draft model {draft}: it has recurrent layers"):
        plan(folder, drafting(), recurrent, parts=parts, speculative_config={"model": str(draft)})
    configure(folder, architectures=["WavesForCausalLM"])
    assert plan(folder, proposer(), recurrent, parts=parts).proposer is None
    with pytest.raises(ResolutionError, match="the model has recurrent layers"):
        plan(folder, proposer(), recurrent, parts=parts, speculative_config={"method": "seer"})


def test_a_card_whose_config_is_none_is_the_plugin_s_fault(folder: Path, draft: Path) -> None:
    wrong = proposer("wrong", config=f"{__name__}:Options", model=True)
    with pytest.raises(
        PluginError,
        match=r"the proposer wrong \(more-0 1\.0\): .*:Options is no subclass of dovetail\.api\.DraftOptions",
    ):
        plan(folder, wrong, speculative_config={"model": str(draft)})
