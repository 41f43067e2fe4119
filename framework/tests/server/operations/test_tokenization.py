"""The routes that turn text into token ids and back."""

from __future__ import annotations

import pytest
from server_fakes import FakeEngine


def test_a_text(ask) -> None:
    response = ask("POST", "/tokenize", json={"model": "fake/model", "prompt": "hé"})
    assert response.json() == {
        "count": 4,
        "max_model_len": 512,
        "tokens": [256, *"hé".encode()],
        "token_strs": None,
    }


def test_without_special_tokens_and_with_spellings(ask) -> None:
    body = {"prompt": "ab", "add_special_tokens": False, "return_token_strs": True}
    answer = ask("POST", "/tokenize", json=body).json()
    assert (answer["tokens"], answer["token_strs"]) == ([97, 98], ["a", "b"])


def test_an_empty_text_has_no_tokens_of_its_own(ask) -> None:
    assert ask("POST", "/tokenize", json={"prompt": ""}).json()["tokens"] == [256]


def test_a_conversation(ask, engine: FakeEngine) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    kwargs = {"enable_thinking": False}
    answer = ask("POST", "/tokenize", json={"messages": messages, "chat_template_kwargs": kwargs}).json()
    assert answer["tokens"] == [*b"<user>Hi"]
    assert answer["count"] == 8
    assert engine.tokenizer.last["add_generation_prompt"] is True
    assert engine.tokenizer.last["enable_thinking"] is False


def test_a_conversation_is_left_open(ask, engine: FakeEngine) -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Well"}]
    body = {"messages": messages, "continue_final_message": True, "add_special_tokens": True}
    answer = ask("POST", "/tokenize", json=body).json()
    assert answer["tokens"][0] == 256
    assert engine.tokenizer.last["continue_final_message"] is True
    assert engine.tokenizer.last["add_generation_prompt"] is False


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": "a", "messages": [{"role": "user", "content": "a"}]}, "prompt"),
        ({"prompt": 3}, "prompt"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "a"}], "chat_template": "{{ 1 }}"}, "chat_template"),
        ({"messages": [{"role": "refused", "content": "a"}]}, "messages"),
    ],
)
def test_what_is_refused(ask, body: dict[str, object], param: str) -> None:
    response = ask("POST", "/tokenize", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_back_to_text(ask) -> None:
    answer = ask("POST", "/detokenize", json={"tokens": [256, *"hé".encode()]})
    assert answer.json() == {"prompt": "<s>hé"}
    assert ask("POST", "/detokenize", json={"tokens": []}).json() == {"prompt": ""}


@pytest.mark.parametrize("tokens", [None, "a", [257], [-1], [1.5], [True], [2**70]])
def test_ids_that_are_none(ask, tokens: object) -> None:
    response = ask("POST", "/detokenize", json={"tokens": tokens})
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith("tokens")


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize"])
def test_an_unknown_model(ask, path: str) -> None:
    response = ask(
        "POST",
        path,
        json={"model": "other", "prompt": "a"} if path == "/tokenize" else {"model": "other", "tokens": []},
    )
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"


def test_a_sleeping_engine_does_not_matter(ask, engine: FakeEngine) -> None:
    engine.sleeping = True
    assert ask("POST", "/tokenize", json={"prompt": "a"}).status_code == 200
