"""What is refused before a request is queued, and that nothing takes the process with it."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
from dovetail_grammars_llguidance import deep_stack as deep
from dovetail_grammars_llguidance import validation
from dovetail_grammars_llguidance.validation import validate_source

from dovetail.api import GrammarKind, GrammarSource, RequestError

TAG = {"begin": "<f>", "schema": {"type": "object"}, "end": "</f>"}


def reason(kind: GrammarKind, text: str) -> str:
    with pytest.raises(RequestError) as caught:
        validate_source(GrammarSource(kind, text))
    assert caught.value.param == "structured_outputs"
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ("{", "it is not JSON (Expecting property name"),
        ("[1]", "wanted an object, found '[1]'"),
        ("5", "wanted an object, found '5'"),
        ("false", "the schema false has no values"),
        ('{"type": "objekt"}', "Invalid type: objekt"),
        ('{"properties": 5}', "properties must be an object"),
        ('{"minimum": 5, "maximum": 3, "type": "integer"}', "minimum (5) is greater than maximum (3)"),
        ('{"minLength": 5, "maxLength": 3, "type": "string"}', "minLength (5) is greater than maxLength (3)"),
        ('{"enum": []}', "Unsatisfiable schema"),
        ('{"allOf": [{"type": "string"}, {"type": "null"}]}', "incompatible types"),
        (
            '{"type": "object", "required": ["a"], "additionalProperties": false}',
            "required property 'a' is unsatisfiable",
        ),
        ('{"$ref": "http://example.com/a"}', "does not fetch resources"),
        ('{"$ref": "#/$defs/a"}', "Pointer '/$defs/a' does not exist"),
        ('{"$ref": "#"}', "no value of it comes to an end, since its required parts lead back to itself"),
        ('{"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}', "no value of it comes to an end"),
        ('{"type": "array", "items": {"$ref": "#"}, "minItems": 1}', "no value of it comes to an end"),
        ('{"type": "string", "pattern": "("}', "unclosed group"),
        ('{"patternProperties": {"^(?=a)b": {}}, "type": "object"}', "look-around"),
        ('{"x-guidance": 1}', "x-guidance: wanted an object, found 1"),
        ('{"minimum": NaN}', "a number in it is too large"),
        ("[" * 10**6, "wanted an object"),
        ('{"items":' * 10**5, "it nests too deep"),
        ('{"items":' * 200 + "{}" + "}" * 200, "it nests deeper than 120 levels"),
        (json.dumps({"title": "x" * 2**20}), "bytes, more than 1,048,576; send a smaller one"),
    ],
)
def test_schemas(schema: str, told: str) -> None:
    assert told in reason("json", schema)


@pytest.mark.parametrize("schema", ["true", "{}", '{"x-unknown": 1}', ' {"const": null}'])
def test_schemas_that_are_taken(schema: str) -> None:
    assert validate_source(GrammarSource("json", schema)) == []


@pytest.mark.parametrize(
    ("kind", "text", "told"),
    [
        ("regex", "ab(c", "the regex cannot be used: at character 3: unclosed group"),
        ("regex", "a\nb(", "at character 5: unclosed group"),
        ("regex", "a(?=b)", "at character 2: look-around"),
        ("regex", r"\bx", "lookarounds not supported yet"),
        ("regex", r"(a)\1", "at character 4: backreferences are not supported"),
        ("regex", "x" * 300_000, "more than 262,144"),
        ("choice", "[]", "wanted a list of one or more texts, found []"),
        ("choice", "{", "it is not JSON"),
        ("choice", '["\\ud800"]', "half of a surrogate pair"),
        ("grammar", "start: foo", 'the grammar cannot be used: at 1(8): unknown name: "foo"'),
        ("grammar", 'start: a\na: "b', "2(6): lexer error"),
        ("grammar", 'beginning: "a"', "no start rule found"),
        ("grammar", "root ::= foo", "as GBNF: Rule 'foo' not found; write GBNF or Lark"),
        ("grammar", 'start: %json {"not": {}, "x-strict": true}', "not at # cannot be kept, and the schema is strict"),
        ("grammar", 'start: b %json {"enum": [\n1]}\nb: c', '3(4): unknown name: "c"'),
        ("structural_tag", "[", "it is not JSON"),
        ("structural_tag", '{"triggers": []}', "wanted an object with format, or with structures and triggers"),
        ("structural_tag", json.dumps({"structures": [TAG]}), "triggers: Field required"),
        ("structural_tag", json.dumps({"structures": [TAG], "triggers": ["<g"]}), "begins with none of the triggers"),
        ("structural_tag", json.dumps({"structures": [{}], "triggers": ["<g"]}), "structures[0].begin: Field required"),
    ],
)
def test_other_forms(kind: GrammarKind, text: str, told: str) -> None:
    assert told in reason(kind, text)


CHAINS = """
import json
from dovetail.api import GrammarSource
from dovetail_grammars_llguidance.validation import validate_source
count = 25_000
links = {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(count)}
validate_source(GrammarSource("json", json.dumps({"$ref": "#/$defs/d0", "$defs": {**links, f"d{count}": {}}})))
rules = "".join(f'r{i}: r{i + 1} "x"\\n' for i in range(12_000))
validate_source(GrammarSource("grammar", f'start: r0\\n{rules}r12000: "a"'))
print("lived")
"""


def test_long_chains_do_not_overflow_the_stack() -> None:
    done = subprocess.run([sys.executable, "-c", CHAINS], capture_output=True, text=True, timeout=120)
    assert done.stdout == "lived\n", (done.returncode, done.stderr)


def doubling(count: int) -> GrammarSource:
    """A text of so many terminals, each twice the next: too large, which takes long to see."""
    rules = "".join(f"R{i}: R{i + 1} R{i + 1}\n" for i in range(count))
    return GrammarSource("grammar", f'start: R0\n{rules}R{count}: "a"')


def test_what_takes_too_long_is_refused_and_not_many_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "LIMIT_S", 0.01)
    for _ in range(deep.MAX_RUNAWAYS):
        with pytest.raises(RequestError, match=r"does not compile within 0\.01 s; make it simpler"):
            validate_source(doubling(200))
    with pytest.raises(RequestError, match="grammars that take too long are still being compiled"):
        validate_source(GrammarSource("regex", "a"))
    monkeypatch.setattr(validation, "LIMIT_S", 30.0)
    until = time.monotonic() + 60
    while any(thread.is_alive() for thread in deep._runaways):
        assert time.monotonic() < until
        time.sleep(0.05)
    validate_source(GrammarSource("regex", "a"))
    assert "too big" in reason("grammar", doubling(200).text)
