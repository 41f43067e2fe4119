"""Tokenizers from the files of a Hugging Face checkpoint, compared with transformers where it is installed."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dovetail.api import CheckpointError, RequestError
from dovetail.engine.text import tokenizer_files as module
from dovetail.engine.text.tokenizer import Tokenizer, from_folder

from .tokenizer_folders import TEXTS, byte_fallback, byte_level, word_piece, write

NAMED = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
MESSAGES = [{"role": "user", "content": "hi"}]


def entry(content: str, **flags: bool) -> dict[str, Any]:
    usual = dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word", "special"), False)
    return {**usual, "content": content, **flags}


def test_round_trip_and_names(tmp_path: Path) -> None:
    tokenizer = from_folder(str(write(tmp_path, byte_level(), tokenizer_config=NAMED)))
    assert (tokenizer.bos_token, tokenizer.bos_token_id) == ("<s>", 1)
    assert (tokenizer.eos_token_id, tokenizer.eos_token_ids) == (2, (2,))
    assert tokenizer.special_ids == {0, 1, 2}
    assert tokenizer.vocab_size == len(tokenizer) == len(tokenizer.get_vocab())
    for text in TEXTS[:9]:
        assert tokenizer.encode(text) == [1, *tokenizer.encode(text, add_special_tokens=False)]
        assert tokenizer.decode(tokenizer.encode(text)) == text
    ids = tokenizer.encode("<|user|> a</s>", add_special_tokens=False)
    assert tokenizer.decode(ids) == "<|user|> a"
    assert tokenizer.decode(ids, skip_special_tokens=False) == "<|user|> a</s>"
    assert tokenizer.convert_tokens_to_ids(["</s>", "no such"]) == [2, None]
    assert tokenizer.convert_ids_to_tokens([2, 10**6, -1]) == ["</s>", None, None]
    assert tokenizer.encode_batch(TEXTS) == [tokenizer.encode(text) for text in TEXTS]


def test_file_instead_of_folder(tmp_path: Path) -> None:
    write(tmp_path, byte_level(), tokenizer_config=NAMED)
    assert from_folder(str(tmp_path / "tokenizer.json")).eos_token == "</s>"


def test_files_name_special_tokens(tmp_path: Path) -> None:
    config = {"bos_token": "wrong", "eos_token": entry("</s>")}
    special = {"bos_token": entry("<s>", special=True)}
    tokenizer = from_folder(str(write(tmp_path, byte_level(), tokenizer_config=config, special_tokens_map=special)))
    assert tokenizer.special_tokens == {"bos_token": "<s>", "eos_token": "</s>"}


def test_tokens_that_only_the_configuration_declares(tmp_path: Path) -> None:
    backend = byte_level()
    size = backend.get_vocab_size()
    declared = {
        str(size + 1): entry("<|b|>", special=True),
        str(size): entry("<|a|>"),
        "2": entry("</s>", special=True),
    }
    config = {**NAMED, "added_tokens_decoder": declared, "eos_token": "<|a|>", "pad_token": "<|pad|>"}
    tokenizer = from_folder(str(write(tmp_path, backend, tokenizer_config=config)))
    assert tokenizer.convert_tokens_to_ids(["<|a|>", "<|b|>", "<|pad|>"]) == [size, size + 1, size + 2]
    assert {size, size + 1, size + 2} <= tokenizer.special_ids


def test_truncation_and_padding_of_the_file_are_off(tmp_path: Path) -> None:
    backend = byte_level()
    backend.enable_truncation(3)
    backend.enable_padding(length=50)
    assert len(from_folder(str(write(tmp_path, backend))).encode(TEXTS[0], add_special_tokens=False)) > 3


@pytest.mark.parametrize("build", [byte_level, byte_fallback, word_piece])
def test_agrees_with_transformers(tmp_path: Path, build: Any) -> None:
    transformers = pytest.importorskip("transformers")
    special_tokens = (
        NAMED if build is not word_piece else {"cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    )
    size = build().get_vocab_size()
    config = {
        **special_tokens,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "added_tokens_decoder": {str(size): entry("<|new|>", special=True), str(size + 1): entry("plain")},
        "chat_template": "{{ bos_token }}{% for m in messages %}{{ m.role }}{{ m.content }}{% endfor %}",
        "clean_up_tokenization_spaces": False,
    }
    folder = str(write(tmp_path, build(), tokenizer_config=config))
    ours, theirs = from_folder(folder), transformers.AutoTokenizer.from_pretrained(folder)
    for text in [*TEXTS, "a<|new|>b plain c"]:
        ids = ours.encode(text)
        assert ids == theirs.encode(text)
        assert ours.encode(text, add_special_tokens=False) == theirs.encode(text, add_special_tokens=False)
        for skip in (True, False):
            assert ours.decode(ids, skip) == theirs.decode(ids, skip_special_tokens=skip)
    assert ours.eos_token_id == theirs.eos_token_id
    assert len(ours) == len(theirs)
    rendered = theirs.apply_chat_template(MESSAGES, tokenize=False)
    assert ours.apply_chat_template(MESSAGES) == rendered


def test_half_of_a_surrogate_pair_is_refused(tmp_path: Path) -> None:
    tokenizer = from_folder(str(write(tmp_path, byte_level())))
    with pytest.raises(RequestError, match=r"U\+D83D\) at character 1"):
        tokenizer.encode("a\ud83db")
    with pytest.raises(RequestError):
        tokenizer.encode_batch(["fine", "\ud83d"])


def test_no_tokenizer_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match=r"wanted tokenizer.json in .*dovetail\[transformers\]"):
        from_folder(str(tmp_path))


def test_older_files_go_through_transformers(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(CheckpointError, match="transformers cannot make one"):
        from_folder(str(tmp_path))
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "world"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    tokenizer = from_folder(str(tmp_path))
    assert tokenizer.encode("Hello world") == [2, 5, 6, 3]
    assert tokenizer.special_tokens["sep_token"] == "[SEP]"


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("text", ["{", "[1]"])
def test_damaged_files(tmp_path: Path, name: str, text: str) -> None:
    write(tmp_path, byte_level())
    (tmp_path / name).write_text(text)
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        from_folder(str(tmp_path))


class TestChatTemplates:
    """Where templates are found, and which is taken."""

    def folder(self, tmp_path: Path, **config: Any) -> Path:
        return write(tmp_path, byte_level(), tokenizer_config={**NAMED, **config})

    def test_configuration(self, tmp_path: Path) -> None:
        tokenizer = from_folder(str(self.folder(tmp_path, chat_template="{{ eos_token }}{{ x }}")))
        assert tokenizer.apply_chat_template(MESSAGES, x=3) == "</s>3"

    def test_named(self, tmp_path: Path) -> None:
        special_tokens = [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}]
        tokenizer = from_folder(str(self.folder(tmp_path, chat_template=special_tokens)))
        assert tokenizer.apply_chat_template(MESSAGES) == "D"
        assert tokenizer.apply_chat_template(MESSAGES, tools=[{"type": "function"}]) == "T"
        assert tokenizer.apply_chat_template(MESSAGES, chat_template="tool_use") == "T"
        assert tokenizer.apply_chat_template(MESSAGES, chat_template="X{{ messages[0].content }}") == "Xhi"

    def test_files_come_first(self, tmp_path: Path) -> None:
        folder = self.folder(tmp_path, chat_template="old")
        (folder / "chat_template.json").write_text('{"chat_template": "older file"}')
        assert from_folder(str(folder)).chat_template == "older file"
        (folder / "chat_template.jinja").write_text("new")
        assert from_folder(str(folder)).chat_template == "new"
        (folder / "additional_chat_templates").mkdir()
        (folder / "additional_chat_templates" / "rag.jinja").write_text("R")
        assert from_folder(str(folder)).chat_template == {"default": "new", "rag": "R"}

    def test_none(self, tmp_path: Path) -> None:
        tokenizer = from_folder(str(self.folder(tmp_path)))
        with pytest.raises(RequestError, match="no chat template"):
            tokenizer.apply_chat_template(MESSAGES)

    def test_no_default(self, tmp_path: Path) -> None:
        special_tokens = [{"name": "a", "template": "A"}, {"name": "b", "template": "B"}]
        tokenizer = from_folder(str(self.folder(tmp_path, chat_template=special_tokens)))
        with pytest.raises(RequestError, match="a, b"):
            tokenizer.apply_chat_template(MESSAGES)


def test_travels_to_another_process(tmp_path: Path) -> None:
    tokenizer: Tokenizer = pickle.loads(pickle.dumps(from_folder(str(write(tmp_path, byte_level())))))
    assert tokenizer.decode(tokenizer.encode("hello")) == "hello"


def test_needs_no_torch() -> None:
    code = (
        "import sys, dovetail.engine.text.tokenizer; "
        "sys.exit(', '.join({'torch', 'transformers', 'numpy'} & set(sys.modules)) or None)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_files_may_begin_with_a_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    write(tmp_path, byte_level(), tokenizer_config={"eos_token": "</s>"}, chat_template={"chat_template": "{{ 1 }}"})
    (tmp_path / "chat_template.jinja").write_text("{{ 2 }}", encoding="utf-8")
    plain = from_folder(str(tmp_path))
    for file in tmp_path.iterdir():
        file.write_text(file.read_text(encoding="utf-8"), encoding=encoding)
    marked = from_folder(str(tmp_path))
    assert marked.encode(TEXTS[0]) == plain.encode(TEXTS[0])
    assert (marked.eos_token_id, marked.chat_template) == (plain.eos_token_id, "{{ 2 }}")
