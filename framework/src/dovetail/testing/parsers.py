"""Conformance tests of parsers of tool calls and of reasoning.

Samples are model outputs with their expected parses. A parser must give that result for a whole output and for one cut
anywhere, in time that is linear in the output's length.
"""

from __future__ import annotations

import codecs
import json
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from dovetail.api import (
    CallArguments,
    CallBegin,
    Content,
    ParserCard,
    Reasoning,
    ReasoningParserCard,
    ToolParserCard,
)
from dovetail.kernel.discovery import import_dotted
from dovetail.testing.comparison import label
from dovetail.testing.resolution import claim
from dovetail.testing.samples.parsers import TOOLS, ReasoningSample, ToolSample

ARGUMENTS = '{"city": "Zürich \\"}]\\n\\\\", "filter": {"a": [1, {"b": null}], "c": "</x>"}}'
"""Arguments for generated calls: JSON with texts that a careless parser takes for its end."""
LENGTH = 4_000
"""Characters of the shorter one of two outputs whose times are compared."""
LEAST = 0.05
"""Seconds that the longer one may take in any case."""
RANDOM_CUTS = 20
DAMAGES = 30
"""Number of damaged outputs, made from all samples by cutting, joining and misspelling."""

DAMAGE = ("", "", " ", "\n", "x" * 300, "\\", '"', "{", "}", "<", "]", "null")

Events = list[Any]


def check_tool_parser(card: ToolParserCard, samples: Sequence[ToolSample]) -> None:
    """Check a tool parser's results on outputs, and its interface.

    For each sample: the whole gives the expected content and calls; cut in two at every byte, into characters, and at
    random, it gives the same; truncated at any position it gives the beginning of the same, without an exception. Calls
    written as ``call_format`` says are found. Special tokens on the card occur in a sample or call format. Time is
    linear in the output's length, also for outputs that were made to provoke the opposite.

    Raises:
        AssertionError: names the claim that failed.
    """
    assert samples, f"{label(card)}: no samples"
    with claim(f"{label(card)}: its target"):
        kind = import_dotted(card.target)
    for sample in samples:
        case = _Case(f"{label(card)} on {sample.text!r}", partial(kind, list(sample.tools)), sample.text)
        case.check(case.every_cut())
        content, calls = _calls(case.whole)
        assert content == sample.content, f"{case.name}: found the content {content!r}, wanted {sample.content!r}"
        assert len(calls) == len(sample.calls), f"{case.name}: found the calls {calls}, wanted {sample.calls}"
        for found, expected in zip(calls, sample.calls, strict=True):
            assert _same(found, expected), f"{case.name}: found the call {found}, wanted {expected}"
        case.check_cut_short(_calls_begin, range(len(sample.text)))
    _check_damaged(card, partial(kind, list(TOOLS)), [sample.text for sample in samples], _calls_begin)
    written = _check_call_format(card, kind)
    _check_special_tokens(card, [*written, *(sample.text for sample in samples)])
    _check_time(card, partial(kind, list(TOOLS)), samples[0].text)


def check_reasoning_parser(card: ReasoningParserCard, samples: Sequence[ReasoningSample]) -> None:
    """Check a reasoning parser's results on outputs, and its interface.

    As :func:`check_tool_parser`; and reasoning between ``reasoning_markers`` is separated from the answer after them.

    Raises:
        AssertionError: names the claim that failed.
    """
    assert samples, f"{label(card)}: no samples"
    with claim(f"{label(card)}: its target"):
        kind = import_dotted(card.target)
    written: list[str] = []
    for sample in samples:
        make = partial(kind, sample.prompt)
        case = _Case(f"{label(card)} on {sample.text!r} after {sample.prompt!r}", make, sample.text)
        case.check(case.every_cut())
        found = _thoughts(case.whole)
        expected = (sample.reasoning, sample.content)
        assert found == expected, f"{case.name}: found the reasoning and content {found}, wanted {expected}"
        case.check_cut_short(_thoughts_begin, range(len(sample.text)))
        marks = make().reasoning_markers()
        text = "ü".join(marks) + "an answer" if marks else "an answer"
        written += [text, sample.prompt]
        found = _thoughts(_run(make, [text]))
        expected = ("ü" if marks else "", "an answer")
        assert found == expected, (
            f"{label(card)}: after {sample.prompt!r}, {text!r} gives {found}, wanted {expected} by its reasoning_markers"
        )
    _check_special_tokens(card, [*written, *(sample.text for sample in samples)])
    _check_time(card, partial(kind, ""), samples[0].text)


@dataclass
class _Case:
    """One parser and one output."""

    name: str
    make: Callable[[], Any]
    text: str

    def check(self, cuts: Iterable[list[str]]) -> None:
        """Check that cutting the output changes nothing."""
        with claim(f"{self.name}, whole"):
            self.whole = _run(self.make, [self.text])
        _check_form(self.name, self.whole)
        for pieces in cuts:
            with claim(f"{self.name}, cut into {pieces}"):
                found = _run(self.make, pieces)
            assert found == self.whole, f"{self.name}, cut into {pieces}: found {found}, wanted {self.whole}"

    def every_cut(self) -> Iterator[list[str]]:
        data = self.text.encode()
        for place in range(1, len(data)):
            yield _decode([data[:place], data[place:]])
        yield _decode([bytes([byte]) for byte in data])
        yield from self.random_cuts(random.Random(0))

    def random_cuts(self, rng: random.Random) -> Iterator[list[str]]:
        data = self.text.encode()
        for _ in range(RANDOM_CUTS):
            places = sorted(rng.sample(range(len(data) + 1), min(len(data), rng.randint(1, 8))))
            yield _decode([data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)])

    def check_cut_short(self, begins: Callable[[Events, Events], bool], lengths: Iterable[int]) -> None:
        for length in lengths:
            where = f"{self.name}, cut short after {length} characters"
            with claim(where):
                parser = self.make()
                fed = _merge(parser.feed(self.text[:length]))
                found = _merge([*fed, *parser.finish()])
            _check_form(where, found)
            assert _is_beginning(fed, self.whole), f"{where}: handed out {fed}, and later {self.whole}"
            assert begins(found, self.whole), f"{where}: found {found}, which is not how {self.whole} begins"


def _decode(parts: Iterable[bytes]) -> list[str]:
    """Pieces as a detokenizer emits them: a character once all of its bytes are there."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    return [decoder.decode(part) for part in parts]


def _run(make: Callable[[], Any], pieces: Iterable[str]) -> Events:
    parser = make()
    events = [event for piece in pieces for event in parser.feed(piece)]
    return _merge([*events, *parser.finish()])


def _merge(events: Iterable[Any]) -> Events:
    """Events, with adjacent ones of one kind merged."""
    merged: Events = []
    for event in events:
        if merged and type(event) is type(merged[-1]) and not isinstance(event, CallBegin):
            merged[-1] = type(event)(merged[-1].text + event.text)
        else:
            merged.append(event)
    return merged


def _check_form(name: str, events: Events) -> None:
    called = False
    for event in events:
        assert isinstance(event, CallBegin | CallArguments | Content | Reasoning), f"{name}: {event!r} is no event"
        text = event.name if isinstance(event, CallBegin) else event.text
        assert isinstance(text, str), f"{name}: {event!r} holds no text"
        assert text, f"{name}: {event!r} is empty"
        assert called or not isinstance(event, CallArguments), f"{name}: arguments before any call: {events}"
        called = called or isinstance(event, CallBegin)
        with claim(f"{name}: {event!r} as UTF-8"):
            text.encode()


def _is_beginning(part: Events, whole: Events) -> bool:
    if not part:
        return True
    *before, last = part
    if before != whole[: len(before)] or len(part) > len(whole):
        return False
    other = whole[len(before)]
    if isinstance(last, CallBegin) or type(last) is not type(other):
        return bool(last == other)
    return str(other.text).startswith(last.text)


def _calls(events: Events) -> tuple[str, list[tuple[str, str]]]:
    content, calls = "", list[tuple[str, str]]()
    for event in events:
        match event:
            case Content(text):
                content += text
            case CallBegin(name):
                calls.append((name, ""))
            case CallArguments(text):
                calls[-1] = (calls[-1][0], calls[-1][1] + text)
    return content, calls


def _thoughts(events: Events) -> tuple[str, str]:
    parts = [(e.text, "") if isinstance(e, Reasoning) else ("", e.text) for e in events]
    return "".join(a for a, _ in parts), "".join(b for _, b in parts)


def _calls_begin(part: Events, whole: Events) -> bool:
    found, expected = _calls(part)[1], _calls(whole)[1]
    if not found:
        return True
    return (
        len(found) <= len(expected)
        and found[:-1] == expected[: len(found) - 1]
        and found[-1][0] == expected[len(found) - 1][0]
        and expected[len(found) - 1][1].startswith(found[-1][1])
    )


def _thoughts_begin(part: Events, whole: Events) -> bool:
    # What may be the beginning of a mark is text when nothing follows, so that only one of the two may be longer.
    return any(whole_text.startswith(text) for text, whole_text in zip(_thoughts(part), _thoughts(whole), strict=True))


def _same(found: tuple[str, str], expected: tuple[str, Any]) -> bool:
    if isinstance(expected[1], str) or found[0] != expected[0]:
        return found == expected
    try:
        # Equal as JSON: true is not 1, nor 1 the same as 1.0.
        return json.dumps(json.loads(found[1])) == json.dumps(expected[1])
    except ValueError:
        return False


def _check_call_format(card: ToolParserCard, kind: Any) -> list[str]:
    """Check that calls are found which are written as the parser's call format says."""
    call_format = kind.call_format(list(TOOLS))
    if call_format is None:
        return []
    assert len(call_format.calls) == len(TOOLS), (
        f"{label(card)}: its call format has {len(call_format.calls)} calls for {len(TOOLS)} tools"
    )
    texts = []
    for chosen in ([0], [2], [0, 1], [2, 0, 0, 1]):
        arguments = ["{}" if i == 2 else ARGUMENTS for i in chosen]
        calls = [
            call_format.calls[i][0] + text + call_format.calls[i][1] for i, text in zip(chosen, arguments, strict=True)
        ]
        text = call_format.before + call_format.separator.join(calls) + call_format.after
        texts.append(text)
        found = _calls(_run(partial(kind, list(TOOLS)), [text]))
        expected = ("", [(str(TOOLS[i]["name"]), a) for i, a in zip(chosen, arguments, strict=True)])
        assert found == expected, (
            f"{label(card)}: {text!r}, written as its call format says, gives {found}, wanted {expected}"
        )
    return texts


def _check_special_tokens(card: ParserCard, texts: Sequence[str]) -> None:
    for token in card.special_tokens:
        assert any(token in text for text in texts), (
            f"{label(card)}: the special token {token} stands in no sample, and in nothing that its call format writes"
        )


def _check_damaged(
    card: ParserCard, make: Callable[[], Any], texts: Sequence[str], begins: Callable[[Events, Events], bool]
) -> None:
    """Check that damaged outputs, too, give the same result however they are cut."""
    rng = random.Random(0)
    for _ in range(DAMAGES):
        parts = []
        for text in rng.choices(texts, k=rng.randint(1, 3)):
            place = rng.randrange(len(text) + 1)
            parts += [text[:place], rng.choice(DAMAGE), text[min(len(text), place + rng.choice([0, 0, 1, 3, 10])) :]]
        case = _Case(f"{label(card)} on the damaged output {''.join(parts)!r}", make, "".join(parts))
        case.check(list(case.random_cuts(rng)))
        case.check_cut_short(begins, rng.sample(range(len(case.text) + 1), min(5, len(case.text))))


def _check_time(card: ParserCard, make: Callable[[], Any], text: str) -> None:
    """Check that time grows linearly with the length, for outputs that repeat a character or a sample, or continue
    inside a call.
    """
    middle = text[: 2 * len(text) // 3]
    for name, head, unit in (
        *((repr(unit), "", unit) for unit in ("<", "{", "[", "\\", '"', "```", " ", '{"', "word ")),
        ("a sample again and again", "", text),
        ("the beginning of a sample again and again", "", middle),
        *((f"a sample that goes on with {unit!r}", middle, unit) for unit in ('\\"', "<", "{", " ")),
    ):
        for _ in range(3):
            long = _seconds(make, (head + 4 * LENGTH * unit)[: 4 * LENGTH])
            # The shorter one is only asked where the longer one takes long enough to tell.
            if long < LEAST or long < LEAST + 8 * (short := _seconds(make, (head + LENGTH * unit)[:LENGTH])):
                break
        else:
            raise AssertionError(
                f"{label(card)}: four times the output takes {long / short:.0f} times as long, for {name}: {long:.2f} s for {4 * LENGTH} characters"
            )


def _seconds(make: Callable[[], Any], text: str) -> float:
    started = time.process_time()
    _run(make, [text[i : i + 8] for i in range(0, len(text), 8)])
    _run(make, [text])
    return time.process_time() - started
