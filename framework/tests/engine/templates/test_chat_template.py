"""Rendering conversations, compared with transformers where it is installed."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from dovetail.api import ConfigError, RequestError
from dovetail.engine.templates.chat_template import find_message_format, load_template, render
from dovetail.engine.text.tokenizer import Tokenizer

CHATML = """{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""
STRICT = """{{ bos_token }}{% for m in messages %}
    {% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}
[{{ m.role | upper }}] {{ m.content | trim }}{{ eos_token }}
{% endfor %}"""
TOOLS = """{% if tools %}TOOLS {{ tools | tojson }}
{{ tools | tojson(indent=2) }}
{% endif %}{% for m in messages %}{% if m.tool_calls %}{% for c in m.tool_calls %}CALL {{ c.function.name }}{% for k, v in c.function.arguments.items() %} {{ k }}={{ v }}{% endfor %}
{% endfor %}{% elif m.content is none %}NONE{% else %}{{ m.role }}: {{ m.content }}
{% endif %}{% endfor %}"""
PARTS = "{% for m in messages %}{% for p in m['content'] %}<{{ p['type'] }}:{{ p['text'] }}>{% endfor %}{% endfor %}"
EITHER = """{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}[{{ p.text }}]{% endfor %}{% endif %}{% endfor %}"""
BLOCKS = """{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}
{% generation %}{{ m.content }}{% endgeneration %}
{% if loop.index > 2 %}{% break %}{% endif %}{% endfor %}"""
NAMESPACE = """{% set ns = namespace(found=false) %}{% for m in messages %}{% if m.role == 'system' %}{% set ns.found = true %}{% endif %}{% endfor %}{{ ns.found }} {{ dict(a=1) }} {{ strftime_now('%Y')|length }} {{ unknown is defined }}{{ unknown }}"""
TEMPLATES = {
    "chatml": CHATML,
    "strict": STRICT,
    "tools": TOOLS,
    "parts": PARTS,
    "either": EITHER,
    "blocks": BLOCKS,
    "namespace": NAMESPACE,
}

TOOL = {
    "type": "function",
    "function": {"name": "get", "description": "<b> & ü", "parameters": {"type": "object", "properties": {}}},
}
CALL = {
    "role": "assistant",
    "tool_calls": [{"id": "1", "type": "function", "function": {"name": "get", "arguments": '{"a": "ü", "b": [1]}'}}],
}
USER = {"role": "user", "content": "Hi <there>\n"}
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "one": [USER],
    "system": [{"role": "system", "content": "S"}, USER],
    "turns": [USER, {"role": "assistant", "content": "b "}, {"role": "user", "content": "c"}],
    "call": [USER, CALL, {"role": "tool", "tool_call_id": "1", "content": "3"}],
    "parts": [{"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "text", "text": "y"}]}],
}
VARIABLES = {"bos_token": "<s>", "eos_token": "</s>"}


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_agrees_with_transformers(name: str, conversation: str) -> None:
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    messages = CONVERSATIONS[conversation]
    theirs = copy.deepcopy(messages)
    for message in theirs:
        for call in message.get("tool_calls", ()):
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
            message.setdefault("content", None)
        # transformers takes contents only in the form that the template wants.
        form = find_message_format(TEMPLATES[name], message["role"]).content
        if form == "string" and isinstance(message["content"], list):
            message["content"] = "\n".join(part["text"] for part in message["content"])
        elif form == "openai" and isinstance(message["content"], str):
            message["content"] = [{"type": "text", "text": message["content"]}]
    options: dict[str, Any] = {"tools": [TOOL], "add_generation_prompt": True}
    try:
        wanted = utils.render_jinja_template([theirs], chat_template=TEMPLATES[name], **options, **VARIABLES)[0][0]
    except Exception:
        with pytest.raises(RequestError):
            render(TEMPLATES[name], messages, variables=VARIABLES, **options)
        return
    assert render(TEMPLATES[name], messages, variables=VARIABLES, **options) == wanted


def test_messages_are_not_changed() -> None:
    before = copy.deepcopy(CONVERSATIONS["call"])
    render(TOOLS, before, tools=[TOOL])
    assert before == CONVERSATIONS["call"]


def test_arguments_become_objects() -> None:
    assert "CALL get a=ü b=[1]" in render(TOOLS, CONVERSATIONS["call"])


@pytest.mark.parametrize("arguments", [None, "", " ", {}])
def test_no_arguments(arguments: Any) -> None:
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "get", "arguments": arguments}}]}
    assert render(TOOLS, [call]) == "CALL get"


MALFORMED: dict[str, tuple[Any, str]] = {
    "cut off": ('{"a": "qu', '{"a": "qu'),
    "a list": ("[1]", "[1]"),
    "a number": ("3", "3"),
    "a number that is no text": (3, "3"),
    "a list that is no text": ([1, "ü"], '[1, "ü"]'),
    "Python's quotes": ("{'a': 1}", "{'a': 1}"),
    "two objects": ('{"a": 1}{"a": 1}', '{"a": 1}{"a": 1}'),
    "nested too deep": ("[" * 100_000, "[" * 100_000),
}
ARGUMENTS = {
    "of objects": "{% for k, v in a.items() %}<{{ k }}={{ v }}>{% endfor %}",
    "of objects, by a filter": "{% for k, v in a|items %}<{{ k }}={{ v }}>{% endfor %}",
    "of text": "{{ '<' + a + '>' }}",
    "of either": "{% if a is string %}<{{ a }}>{% else %}<{{ a | tojson }}>{% endif %}",
    "as JSON": "<{{ a | tojson }}>",
}


def call_of(arguments: Any, name: str) -> str:
    template = (
        "{% for m in messages %}{% for c in m.tool_calls or [] %}{% set a = c.function.arguments %}"
        + ARGUMENTS[name]
        + "{% endfor %}{% endfor %}"
    )
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "get", "arguments": arguments}}]}
    return render(template, [call])


@pytest.mark.parametrize("template", ARGUMENTS)
@pytest.mark.parametrize("fault", MALFORMED)
def test_malformed_arguments_reach_the_template_as_text(fault: str, template: str) -> None:
    arguments, text = MALFORMED[fault]
    wanted = {"of objects": f"<arguments={text}>", "of objects, by a filter": f"<arguments={text}>"}
    wanted["as JSON"] = f"<{json.dumps(text, ensure_ascii=False)}>"
    assert call_of(arguments, template) == wanted.get(template, f"<{text}>")


@pytest.mark.parametrize("arguments", ['{"k": "v"}', {"k": "v"}])
@pytest.mark.parametrize("template", ARGUMENTS)
def test_arguments_have_the_form_that_the_template_takes(arguments: Any, template: str) -> None:
    assert call_of(arguments, template) == ("<k=v>" if template.startswith("of objects") else '<{"k": "v"}>')


@pytest.mark.parametrize("arguments", [None, "", " ", "null", {}])
def test_no_arguments_in_every_form(arguments: Any) -> None:
    assert [call_of(arguments, name) for name in ARGUMENTS] == ["", "", "<{}>", "<{}>", "<{}>"] or arguments == "null"
    assert call_of(arguments, "of objects") == ""


@pytest.mark.parametrize(
    ("template", "content", "wanted"),
    [
        (CHATML, [{"type": "text", "text": "a"}, "b"], "<|im_start|>user\na\nb<|im_end|>\n"),
        (CHATML, None, "<|im_start|>user\n<|im_end|>\n"),
        (PARTS, "a", "<text:a>"),
        (PARTS, [{"type": "input_text", "text": "a"}], "<text:a>"),
        (EITHER, "a", "a"),
        (EITHER, [{"type": "text", "text": "a"}], "[a]"),
    ],
)
def test_contents(template: str, content: Any, wanted: str) -> None:
    assert render(template, [{"role": "user", "content": content}], add_generation_prompt=False) == wanted


def test_images_for_a_template_of_text() -> None:
    image = {"type": "image_url", "image_url": {"url": "x"}}
    with pytest.raises(RequestError, match="part of type 'image_url'"):
        render(CHATML, [{"role": "user", "content": [image]}])
    assert render("{% for p in messages[0].content %}{{ p.type }}{% endfor %}", [{"role": "user", "content": [image]}])


def test_reasoning_stands_under_every_name() -> None:
    template = "{{ messages[0].reasoning_content }}{{ messages[0].thinking }}"
    assert render(template, [{"role": "assistant", "content": "", "reasoning": "r"}]) == "rr"


@pytest.mark.parametrize("messages", [["hi"], [{"content": "x"}], [{"role": "user", "content": 3}], [{"role": 1}]])
def test_malformed_messages(messages: Any) -> None:
    with pytest.raises(RequestError) as caught:
        render(CHATML, messages)
    assert caught.value.param == "messages"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{% if %}", "cannot be read: line 1"),
        ("\n{{ raise_exception('no system role') }}", "refuses these messages: no system role"),
        ("{{ messages[0].content + 3 }}", "fails on these messages: TypeError"),
        ("{{ nothing.at.all }}", "fails on these messages: UndefinedError"),
        ("{{ messages.append(1) }}", "fails on these messages: SecurityError"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "fails on these messages: SecurityError"),
        ("{% for i in range(999999999) %}{% endfor %}", "fails on these messages: OverflowError"),
    ],
)
def test_faults_of_templates(template: str, said: str) -> None:
    with pytest.raises(RequestError) as caught:
        render(template, [USER])
    assert said in str(caught.value)


class TestContinuing:
    """``continue_final_message``."""

    def test_text_ends_within_the_message(self) -> None:
        messages = [USER, {"role": "assistant", "content": "The answer is "}]
        text = render(CHATML, messages, add_generation_prompt=False, continue_final_message=True)
        assert text.endswith("<|im_start|>assistant\nThe answer is ")

    def test_template_that_trims(self) -> None:
        messages = [USER, {"role": "assistant", "content": "The answer is "}]
        text = render(STRICT, messages, add_generation_prompt=False, continue_final_message=True, variables=VARIABLES)
        assert text.endswith("[ASSISTANT] The answer is")

    def test_parts(self) -> None:
        messages = [{"role": "assistant", "content": [{"type": "text", "text": "a"}]}]
        assert render(PARTS, messages, add_generation_prompt=False, continue_final_message=True) == "<text:a"

    def test_with_generation_prompt(self) -> None:
        with pytest.raises(RequestError, match="exclude each other"):
            render(CHATML, [USER], continue_final_message=True)

    @pytest.mark.parametrize(("template", "messages"), [("fixed", [USER]), (CHATML, []), (TOOLS, [CALL])])
    def test_nothing_to_continue(self, template: str, messages: list[dict[str, Any]]) -> None:
        with pytest.raises(RequestError) as caught:
            render(template, messages, add_generation_prompt=False, continue_final_message=True)
        assert caught.value.param == "continue_final_message"


def test_given_template(tmp_path: Path) -> None:
    file = tmp_path / "t.jinja"
    file.write_text("{{ 1 }}")
    assert load_template(str(file)) == "{{ 1 }}"
    assert load_template("x" * 5000 + "{{ 1 }}").endswith("{{ 1 }}")
    with pytest.raises(ConfigError, match="missing"):
        load_template("missing.jinja")


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__ }}",
        "{{ '' | attr('__class__') }}",
        "{{ ''['__class__'] }}",
        "{{ '{0.__class__}'.format('') }}",
        "{{ '{a.__class__}'.format_map({'a': ''}) }}",
        "{{ ('{0.__class__}' | string).format('') }}",
        "{{ messages | map(attribute='__class__') | list }}",
        "{{ raise_exception.__globals__ }}",
        "{{ strftime_now.__code__ }}",
        "{{ dict.__mro__ }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ lipsum.__globals__['os'].environ }}",
        "{{ self._TemplateReference__context }}",
        "{{ messages.append({}) }}",
        "{{ messages[0].update({'role': 'system'}) }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{{ open('/etc/passwd') }}",
        "{% for i in range(10 ** 9) %}{% endfor %}",
    ],
)
def test_templates_reach_nothing_but_data(template: str) -> None:
    try:
        text = render(template, [{"role": "user", "content": "a"}])
    except RequestError as error:
        text = "" if "the chat template fails" in str(error) else str(error)
    # What the sandbox keeps back is undefined: nothing, until something is done with it.
    assert text in ("", "[Undefined]")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_a_template_may_begin_with_a_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "given.jinja"
    file.write_text("{{ 1 }}é", encoding=encoding)
    assert load_template(str(file)) == "{{ 1 }}é"
    assert load_template("\ufeff{{ 1 }}") == "{{ 1 }}"
    assert render("\ufeff{{ 1 }}", [{"role": "user", "content": "x"}]) == "1"


@pytest.mark.parametrize("content", ["a\nb", [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]])
@pytest.mark.parametrize(
    ("wanted", "shown"),
    [("string", "STRING a\nb"), ("openai", "LIST"), ("auto", None)],
)
def test_the_form_of_contents_can_be_said(content: Any, wanted: Any, shown: str | None) -> None:
    template = (
        "{% macro one(c) %}{{ 'STRING ' + c if c is string else 'LIST' }}{% endmacro %}{{ one(messages[0].content) }}"
    )
    text = render(template, [{"role": "user", "content": content}], content_format=wanted)
    assert text == (shown or "STRING a\nb")
    tokenizer = Tokenizer(tokenizers.Tokenizer(tokenizers.models.BPE()), chat_template=template)
    tokenizer.chat_template_content_format = wanted
    assert tokenizer.apply_chat_template([{"role": "user", "content": content}]) == text
    assert (
        tokenizer.apply_chat_template([{"role": "user", "content": content}], chat_template_content_format="openai")
        == "LIST"
    )


@pytest.mark.parametrize("kind", ["[" * 5000, [[["x" * 5000]]], "a\n\x1b[2J"])
def test_messages_of_errors_quote_a_line(kind: Any) -> None:
    for message in ({"role": "user", "content": [{"type": kind}]}, {"role": "user", "content": {"a": kind}}, [kind]):
        with pytest.raises(RequestError) as error:
            render("{{ messages[0].content }}", [message])  # type: ignore[list-item]
        assert str(error.value).isprintable()
        assert len(str(error.value)) < 300
