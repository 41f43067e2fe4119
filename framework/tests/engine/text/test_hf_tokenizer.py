"""The tokenizer that scripts get, beside the one of transformers on the same files."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from dovetail.api import CheckpointError, RequestError
from dovetail.engine.setup import get_tokenizer
from dovetail.engine.text.hf_tokenizer import HFTokenizer

from .tokenizer_folders import TEXTS, byte_level, write

transformers = pytest.importorskip("transformers")

NAMED = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CHAT = [{"role": "user", "content": "Hello, world!"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = {**NAMED, "chat_template": TEMPLATE, "model_max_length": 24, "tokenizer_class": "PreTrainedTokenizerFast"}
    return write(tmp_path_factory.mktemp("tokenizer"), byte_level(), tokenizer_config=config)


@pytest.fixture
def ours(folder: Path) -> HFTokenizer:
    return get_tokenizer(str(folder))


@pytest.fixture
def theirs(folder: Path) -> Any:
    return transformers.PreTrainedTokenizerFast.from_pretrained(str(folder))


def same(ours: Any, theirs: Any) -> None:
    if hasattr(theirs, "keys"):
        for name in ("input_ids", "attention_mask"):
            same(ours[name], theirs[name])
    elif hasattr(theirs, "tolist"):
        assert type(ours) is type(theirs)
        assert ours.dtype == theirs.dtype
        assert ours.tolist() == theirs.tolist()
    else:
        assert ours == theirs


CALLS: list[dict[str, Any]] = [
    {"text": "Hello, world!"},
    {"text": TEXTS},
    {"text": "Hello, world!", "add_special_tokens": False},
    {"text": TEXTS, "padding": True},
    {"text": TEXTS, "padding": "longest", "padding_side": "left"},
    {"text": TEXTS[:3], "padding": "max_length", "max_length": 30},
    {"text": TEXTS[:3], "padding": "max_length"},
    {"text": TEXTS, "padding": True, "pad_to_multiple_of": 8},
    {"text": "Hello, world!", "padding": "max_length", "max_length": 30},
    {"text": TEXTS, "truncation": True, "max_length": 7},
    {"text": TEXTS, "truncation": True},
    {"text": TEXTS[0], "max_length": 5},
    {"text": TEXTS[0], "max_length": 5, "padding": True},
    {"text": TEXTS[0], "max_length": 5, "truncation": False},
    {"text": "Hello, world!", "return_tensors": "pt"},
    {"text": TEXTS, "return_tensors": "pt", "padding": True, "truncation": True, "max_length": 12},
    {"text": TEXTS, "return_tensors": "np", "padding": True},
]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: ",".join(f"{k}={str(v)[:12]}" for k, v in call.items()))
@pytest.mark.filterwarnings("ignore")
def test_a_call(ours: HFTokenizer, theirs: Any, call: dict[str, Any]) -> None:
    ours.pad_token = ours.eos_token
    theirs.pad_token = theirs.eos_token
    same(ours(**call), theirs(**call))


def test_what_a_call_gives_is_a_mapping_with_attributes(ours: HFTokenizer) -> None:
    found = ours("Hello, world!", return_tensors="pt")
    assert found.input_ids is found["input_ids"]
    assert {**found}.keys() == {"input_ids", "attention_mask"}
    assert found.to("cpu").input_ids.device.type == "cpu"
    assert "attention_mask" not in ours("a", return_attention_mask=False)
    with pytest.raises(AttributeError, match="token_type_ids"):
        _ = found.token_type_ids


@pytest.mark.parametrize("text", TEXTS)
def test_one_text(ours: HFTokenizer, theirs: Any, text: str) -> None:
    ids = theirs.encode(text)
    same(ours.encode(text), ids)
    same(ours.encode(text, add_special_tokens=False), theirs.encode(text, add_special_tokens=False))
    same(ours.encode(text, return_tensors="pt"), theirs.encode(text, return_tensors="pt"))
    assert ours.tokenize(text) == theirs.tokenize(text)
    assert ours.convert_ids_to_tokens(ids) == theirs.convert_ids_to_tokens(ids)
    for skip in (False, True):
        assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)
        assert ours.convert_ids_to_tokens(ids, skip_special_tokens=skip) == theirs.convert_ids_to_tokens(
            ids, skip_special_tokens=skip
        )
    assert ours.decode(ids) == theirs.decode(ids)
    assert ours.convert_tokens_to_string(ours.tokenize(text)) == theirs.convert_tokens_to_string(theirs.tokenize(text))


def test_ids_to_texts(ours: HFTokenizer, theirs: Any) -> None:
    import numpy as np
    import torch

    batch = [theirs.encode(text) for text in TEXTS]
    for skip in (False, True):
        assert ours.batch_decode(batch, skip_special_tokens=skip) == theirs.batch_decode(
            batch, skip_special_tokens=skip
        )
    assert ours.batch_decode(batch) == theirs.batch_decode(batch)
    ids = batch[0]
    assert ours.decode(torch.tensor(ids)) == ours.decode(np.array(ids)) == ours.decode(tuple(ids)) == theirs.decode(ids)
    assert ours.decode(ids[3]) == ours.decode(torch.tensor(ids[3])) == theirs.decode(ids[3])
    assert ours.batch_decode(torch.tensor([ids, ids])) == theirs.batch_decode([ids, ids])
    assert ours.decode(ours.encode("Well , I do n't ."), True, True) == "Well, I don't."


def test_the_vocabulary(ours: HFTokenizer, theirs: Any) -> None:
    assert len(ours) == len(theirs)
    assert ours.vocab_size == theirs.vocab_size
    assert ours.get_vocab() == theirs.get_vocab()
    assert ours.get_added_vocab() == theirs.get_added_vocab()
    for tokens in ("</s>", "<|user|>", "H", "never heard of", ["<s>", "</s>"], ["H", "never heard of"], []):
        assert ours.convert_tokens_to_ids(tokens) == theirs.convert_tokens_to_ids(tokens)
    assert ours.convert_ids_to_tokens(2) == theirs.convert_ids_to_tokens(2) == "</s>"
    assert ours.num_special_tokens_to_add() == theirs.num_special_tokens_to_add()


def test_special_tokens(ours: HFTokenizer, theirs: Any) -> None:
    for name in ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"):
        assert getattr(ours, name) == getattr(theirs, name), name
        assert getattr(ours, f"{name}_id") == getattr(theirs, f"{name}_id"), name
    assert ours.all_special_tokens == theirs.all_special_tokens
    assert ours.all_special_ids == theirs.all_special_ids
    assert ours.special_tokens_map == theirs.special_tokens_map
    for tokenizer in (ours, theirs):
        tokenizer.pad_token_id = tokenizer.eos_token_id
    assert (ours.pad_token, ours.pad_token_id) == (theirs.pad_token, theirs.pad_token_id) == ("</s>", 2)
    ours.pad_token = None
    assert ours.pad_token_id is None


def test_settings(ours: HFTokenizer, theirs: Any) -> None:
    for name in ("model_max_length", "padding_side", "truncation_side", "name_or_path", "is_fast", "chat_template"):
        assert getattr(ours, name) == getattr(theirs, name), name
    for tokenizer in (ours, theirs):
        tokenizer.padding_side = tokenizer.truncation_side = "left"
        tokenizer.pad_token = "</s>"
    call: dict[str, Any] = {"text": TEXTS, "padding": True, "truncation": True, "max_length": 9, "return_tensors": "pt"}
    same(ours(**call), theirs(**call))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"add_generation_prompt": True},
        {"return_tensors": "pt"},
        {"max_length": 5, "truncation": True},
        {"chat_template": "{{ messages[0].content }}{{ more }}", "more": "!"},
    ],
)
@pytest.mark.parametrize("chat", [CHAT, [CHAT, CHAT]], ids=["one", "two"])
def test_chat_templates(ours: HFTokenizer, theirs: Any, options: dict[str, Any], chat: Any) -> None:
    same(
        ours.apply_chat_template(chat, **options),
        theirs.apply_chat_template(chat, **options, return_dict=False),
    )
    texts = {
        name: value for name, value in options.items() if name not in ("return_tensors", "max_length", "truncation")
    }
    assert ours.apply_chat_template(chat, tokenize=False, **texts) == theirs.apply_chat_template(
        chat, tokenize=False, **texts
    )
    same(
        ours.apply_chat_template(chat, return_dict=True, **options),
        theirs.apply_chat_template(chat, return_dict=True, **options),
    )


def test_a_template_of_the_scripts_own(ours: HFTokenizer) -> None:
    ours.chat_template = "{{ messages[0].content }}"
    assert ours.get_chat_template() == ours.chat_template
    assert ours.apply_chat_template(CHAT, tokenize=False) == "Hello, world!"
    assert copy.deepcopy(ours).encode("a") == ours.encode("a")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t("a", padding=True, return_tensors="pt"), "no padding token"),
        (lambda t: t(["a", "bcd efg"], return_tensors="pt"), "different numbers of tokens"),
        (lambda t: t("a", return_tensors="tf"), "return_tensors is 'tf'"),
        (lambda t: t("a", padding="wide"), "padding is 'wide'"),
        (lambda t: t("a", padding=True, padding_side="top"), "padding_side is 'top'"),
        (lambda t: t("a", truncation="only_second"), "truncation is 'only_second'"),
        (lambda t: t(7), "text is a int"),
        (lambda t: t(["a", 7]), "text is a list"),
        (lambda t: t(["a"], ["b", "c"]), "1 texts have 2 pairs"),
        (lambda t: t.encode(["a"]), "encode was given a list"),
        (lambda t: setattr(t, "pad_token", "<pad>"), "no token of this vocabulary"),
        (lambda t: setattr(t, "pad_token_id", 100000), "no token 100000"),
    ],
)
def test_mistakes_are_named(ours: HFTokenizer, call: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        call(ours)


def test_a_folder_that_is_not_there() -> None:
    with pytest.raises(CheckpointError, match="no/such"):
        get_tokenizer("no/such")
