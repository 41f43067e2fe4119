"""Conversations with control tokens, pieces of them and the templates' own phrases in random places: no text changes, and
no control token is left that the template does not write itself.
"""

from __future__ import annotations

import contextlib
import logging
import random
from collections import Counter
from typing import Any

import pytest

from dovetail.api.errors import RequestError
from dovetail.engine.templates.chat_template import _read_literals, render, render_prompt
from dovetail.engine.templates.literals import mark_rules
from dovetail.engine.templates.rendered_prompt import find_control_tokens

from .conversations import TEMPLATES, VARIABLES, Conversations, control_tokens, neutral
from .trial import run_trial

NAMES = sorted(TEMPLATES.keys() - {"fireworks-ai-llama-3-firefunction-v2"})  # it reads variables that nobody gives it


def try_conversation(seed: int) -> None:
    rng = random.Random(seed)
    template = TEMPLATES[NAMES[seed % len(NAMES)]]
    tokens, literals = control_tokens(template), _read_literals(template)
    firsts = {token[0] for token in tokens}
    source = Conversations(rng, tokens, sorted(text for text in literals.constants if firsts & set(text)))
    messages, tools = source.messages(), source.tools()
    options: dict[str, Any] = {"variables": VARIABLES, "tools": tools}
    warnings: list[str] = []
    logging.getLogger("dovetail.engine").addFilter(lambda record: warnings.append(record.getMessage()) or False)
    prompt = render_prompt(template, messages, control_tokens=tokens, **options)
    assert prompt.text == render(template, messages, **options) or "strftime_now" in template
    plain = set(prompt.plain)
    found = list(find_control_tokens(prompt.text, tokens, lambda start, _: start in plain))
    assert {start for start, _, is_plain in found if is_plain} == plain
    try:
        harmless = render(template, neutral(messages, tokens), variables=VARIABLES, tools=neutral(tools, tokens))
    except RequestError:
        return
    own = [harmless[start:end] for start, end, _ in find_control_tokens(harmless, tokens, lambda *_: False)]
    left = [prompt.text[start:end] for start, end, is_plain in found if not is_plain]
    if warnings:
        assert {*(Counter(left) - Counter(own))} <= looked_for(template)
    elif mark_rules(tokens, literals)._rests:
        # The harmless text may hold a token of which the template has written the beginning, and a name the rest.
        assert not Counter(left) - Counter(own)
    else:
        assert left == own


def looked_for(template: str) -> set[str]:
    """Control tokens in the strings with which a template may compare what messages say."""
    constants = _read_literals(template).constants
    return {token for token in control_tokens(template) if any(token in constant for constant in constants)}


def check(seeds: range) -> None:
    for seed in seeds:
        with contextlib.suppress(RequestError):  # what is read once for each template is read here
            render_prompt(TEMPLATES[NAMES[seed % len(NAMES)]], [{"role": "user", "content": "a"}], variables=VARIABLES)
        outcome = run_trial(lambda seed=seed: try_conversation(seed))  # type: ignore[misc]
        assert outcome.problem is None, f"{NAMES[seed % len(NAMES)]}, {seed=}: {outcome.problem}"


def test_templates_are_there() -> None:
    assert len(NAMES) > 40


@pytest.mark.parametrize("first", range(0, 100, 20))
def test_random_conversations(first: int) -> None:
    check(range(first, first + 20))


@pytest.mark.sweep
@pytest.mark.parametrize("first", range(100, 2100, 100))
def test_many_random_conversations(first: int) -> None:
    check(range(first, first + 100))
