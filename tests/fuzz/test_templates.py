"""Hostile and damaged chat templates: each ends in time, as a text or as an error of a line, and nobody else waits for it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from dovetail.api.errors import RequestError
from dovetail.engine.templates.calls import RenderCall
from dovetail.engine.templates.rendered_prompt import RenderedPrompt
from dovetail.server.rendering.pool import TemplatePool
from dovetail.server.settings import ServerSettings

from .mutations import damage_bytes, damage_json
from .trial import MAX_MESSAGE

FOLDERS = sorted(Path(__file__).parents[2].glob("plugins/parsers/*/tests/data"))
PUBLISHED = [file.read_text(encoding="utf-8") for folder in FOLDERS for file in sorted(folder.glob("*.jinja"))]
SECONDS = 0.3
"""The limit of the pool; hostile templates reach it often."""
END_SECONDS = 5.0
"""Beside the limit: a question may wait for another's end, and for a new process."""
BEAT_SECONDS = 0.1
MEGABYTES = 150
"""By which this process may grow."""

NUMBERS = (*"01235799", "-1", "10**3", "10**6", "10**9", "10**30", "10**(10**8)", "2**63", "1.5", "messages|length")
VALUES = (
    *(
        "messages",
        "tools",
        "documents",
        "nothing",
        "none",
        "'a'",
        "''",
        "'\\ud800'",
        "'😀' * 9",
        "[]",
        "{}",
        "range(9)",
    ),
    *(
        "messages[0]",
        "messages[-1].content",
        "messages[99]",
        "loop",
        "self",
        "cycler('a')",
        "joiner(',')",
        "namespace(a=1)",
    ),
    *(
        "''.__class__",
        "messages.__class__.__mro__",
        "raise_exception",
        "lipsum.__globals__",
        "dict(a=1)",
        "strftime_now",
    ),
    *("'a'|attr('__class__')", "''.format", "messages[0].items()", "range.__init__", "caller", "varargs"),
)
FILTERS = (
    *(
        "|length",
        "|tojson",
        "|string",
        "|list",
        "|upper",
        "|trim",
        "|first",
        "|sum",
        "|safe",
        "|int",
        "|map('upper')|list",
    ),
    *(
        "|center({n})",
        "|tojson(indent={n})",
        "|batch({n})|list",
        "|indent({n})",
        "|truncate({n})",
        "|round({n})",
        "|slice({n})|list",
    ),
    *(
        "|join('x' * {n})",
        "|replace('', 'a' * {n})",
        "|wordwrap(1, true, 'a' * {n})",
        "|format({n})",
        "|groupby('role')",
        "|unknown",
    ),
    *(
        "|xmlattr",
        "|pprint",
        "|filesizeformat",
        "|dictsort",
        "|random",
        "|select('string')|list",
        "|attr('__globals__')",
    ),
)
OUTPUTS = (
    *("{{{{ {v} }}}}", "{{{{ {v} * {n} }}}}", "{{{{ {v} ~ {v} }}}}", "{{{{ {v} ** {n} }}}}", "{{{{ {v} + {v} }}}}"),
    *("{{{{ {v}({n}) }}}}", "{{{{ {v}[{n}:{n}] }}}}", "{{{{ range({n})|list }}}}", "{{{{ raise_exception({v}) }}}}"),
    *("{{{{ lipsum(n={n}) }}}}", "{{{{ '%' ~ {n} ~ 'd' % 1 }}}}", "{{{{ '%999999999d' % 1 }}}}"),
    *("{{{{ strftime_now({v}) }}}}", "{{{{ strftime_now('%Y' * {n}) }}}}", "{{% set messages = {v} %}}"),
    *("\x00\x1b[2J", "{# #}", "\ufeff", "{{% raw %}}{{{{{{% endraw %}}", "{{% include 'x' %}}", "{{{{ super() }}}}"),
)
BROKEN = (
    "{{",
    "}}",
    "{%",
    "{{{{ ( }}}}",
    "{{% break %}}",
    "{{% unknown %}}",
    "{{% extends 'x' %}}",
    "{{{{ '\ud800' }}}}",
)
BLOCKS = (
    *("{{% for m in {v} %}}{inner}{{% endfor %}}", "{{% for i in range({n}) %}}{inner}{{% endfor %}}"),
    *("{{% if {v} %}}{inner}{{% else %}}{inner}{{% endif %}}", "{{% set n = namespace(s={v}) %}}{inner}{{{{ n.s }}}}"),
    *("{{% set n = namespace(s='ab') %}}{{% for i in range(99) %}}{{% set n.s = n.s ~ n.s %}}{{% endfor %}}{inner}",),
    *(
        "{{% macro f(x) %}}{inner}{{{{ f(x) }}}}{{% endmacro %}}{{{{ f({v}) }}}}",
        "{{% call lipsum({n}) %}}{inner}{{% endcall %}}",
    ),
    *(
        "{{% for m in messages recursive %}}{inner}{{{{ loop(messages) }}}}{{% endfor %}}",
        "{{% generation %}}{inner}{{% endgeneration %}}",
    ),
    *(
        "{{% filter center({n}) %}}{inner}{{% endfilter %}}",
        "{{% with x={v} %}}{inner}{{% endwith %}}",
    ),
)
CALL = {"id": "callid000", "type": "function", "function": {"name": "look", "arguments": '{"a": [1, "é"]}'}}
CONVERSATION: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Why?"}, {"type": "text", "text": "Well?"}]},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "callid000", "content": "So."},
    {"role": "user", "content": "Really? 😀"},
]
TOOL = {"type": "function", "function": {"name": "look", "description": "Look.", "parameters": {"type": "object"}}}


def write_template(rng: random.Random, depth: int = 0) -> str:
    """A template of hostile pieces."""

    def fill(piece: str) -> str:
        value = f"({rng.choice(VALUES)}{''.join(rng.choice(FILTERS) for _ in range(rng.choice((0, 0, 1, 2))))})"
        for name, text in (("{v}", value), ("{n}", rng.choice(NUMBERS))):
            piece = piece.replace(name, text)
        return piece.replace("{n}", rng.choice(NUMBERS)).replace("{{", "{").replace("}}", "}")

    pieces = []
    for _ in range(rng.randint(1, 3)):
        if depth < 3 and rng.random() < 0.5:
            before, *others = rng.choice(BLOCKS).split("{inner}")
            pieces.append(fill(before) + "".join(write_template(rng, depth + 1) + fill(part) for part in others))
        else:
            pieces.append(fill(rng.choice(BROKEN if rng.random() < 0.02 else OUTPUTS)))
    return "".join(pieces)


def nest(rng: random.Random) -> str:
    """A template, or its expression, that is nested deeply."""
    depth = rng.choice((20, 100, 1000, 30_000))
    begin, end = rng.choice(
        (("{% if 1 %}", "{% endif %}"), ("{% for a in [1] %}", "{% endfor %}"), ("{{ (", ") }}"), ("[", "]"))
    )
    if begin == "[":
        return "{{ " + begin * depth + end * depth + " }}"
    return begin * depth + "1" + end * depth if begin != "{{ (" else "{{ " + "(" * depth + "1" + ")" * depth + " }}"


def damage_template(template: str, rng: random.Random) -> str:
    """A template with lines removed, repeated or exchanged, and hostile pieces between them."""
    lines = template.splitlines(keepends=True)
    for _ in range(rng.randint(1, 4)):
        place, other = rng.randrange(len(lines)), rng.randrange(len(lines))
        match rng.randrange(4):
            case 0:
                del lines[place : place + 1]
            case 1:
                lines.insert(place, lines[other])
            case 2:
                lines[place], lines[other] = lines[other], lines[place]
            case _:
                lines.insert(place, write_template(rng, 2))
        lines = lines or [""]
    return "".join(lines)


def make_case(seed: int) -> tuple[str, Any]:
    """A template and a conversation."""
    rng = random.Random(f"template {seed}")
    kind = rng.random()
    if kind < 0.35:
        template = write_template(rng)
    elif kind < 0.42:
        template = nest(rng)
    elif kind < 0.9:
        template = damage_template(rng.choice(PUBLISHED), rng)
    else:
        template = damage_bytes(rng.choice(PUBLISHED).encode(), rng).decode(
            errors=rng.choice(("surrogateescape", "replace"))
        )
    conversation: Any = CONVERSATION
    if rng.random() < 0.4:
        conversation = damage_json(CONVERSATION, rng)
    elif rng.random() < 0.2:
        deep = rng.choice((50, 500, 50_000))
        arguments = '{"a": ' + "[" * deep + "]" * deep + "}"
        function = {"name": "look", "arguments": arguments}
        conversation = [
            CONVERSATION[0],
            {"role": "assistant", "content": "", "tool_calls": [{**CALL, "function": function}]},
        ]
    return template, conversation if isinstance(conversation, list) else [conversation]


async def try_case(pool: TemplatePool, seed: int, seconds: float) -> str | None:
    """What is wrong with how a case ended, if anything is."""
    template, messages = make_case(seed)
    started = time.monotonic()
    try:
        if seed % 4 == 0:
            await pool.find_facts(template, ("<think>[\\s\\S]*</arg_key>",))
        else:
            call = RenderCall(template, messages, tools=[TOOL] if seed % 2 else None, variables={"bos_token": "<s>"})
            found = await pool.render(call)
            assert isinstance(found, RenderedPrompt)
    except RequestError as error:
        said = str(error)
        if not said.isprintable() or len(said) > MAX_MESSAGE:
            return f"{seed}: no line, or a long one: {said[:300]!r} of {template!r}"
    except Exception as error:
        return f"{seed}: {error!r} of {template!r}"
    took = time.monotonic() - started
    return f"{seed}: {took:.1f} s for {template!r}" if took > seconds else None


async def try_cases(seeds: range, slowness: float) -> tuple[list[str], float]:
    """The problems of cases, two at a time, and the longest that the loop waited."""
    longest = 0.0

    async def beat() -> None:
        nonlocal longest
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.005)
            longest = max(longest, time.perf_counter() - before)

    problems: list[str] = []
    left = iter(seeds)

    async def work(pool: TemplatePool) -> None:
        found = [await try_case(pool, seed, SECONDS + END_SECONDS * slowness) for seed in left]
        problems.extend(problem for problem in found if problem is not None)

    with TemplatePool(ServerSettings(chat_template_timeout=SECONDS)) as pool:
        await pool.render(RenderCall("a", CONVERSATION))
        beating = asyncio.create_task(beat())
        await asyncio.gather(work(pool), work(pool))
        beating.cancel()
    return problems, longest


@pytest.mark.alone
@pytest.mark.parametrize(
    "seeds", [range(100), pytest.param(range(100, 2100), marks=pytest.mark.sweep)], ids=["few", "many"]
)
def test_templates_end_in_time_as_a_text_or_an_error(seeds: range, slowness: Callable[[], float]) -> None:
    slow = slowness()
    before = psutil.Process().memory_info().rss
    problems, longest = asyncio.run(try_cases(seeds, slow))
    assert problems == []
    assert longest < BEAT_SECONDS * slow
    assert (psutil.Process().memory_info().rss - before) >> 20 < MEGABYTES


def test_the_cases_are_of_all_kinds() -> None:
    templates = [make_case(seed)[0] for seed in range(100)]
    assert len(set(templates)) > 80
    assert any("**(10**8)" in template for template in templates)
    assert any("{% macro" in template for template in templates)
    assert PUBLISHED
