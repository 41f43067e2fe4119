"""Random conversations that try to pass for what a chat template writes."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDERS = Path(__file__).parents[2].glob("plugins/parsers/*/tests/data")
TEMPLATES = {
    file.stem: file.read_text(encoding="utf-8") for folder in FOLDERS for file in sorted(folder.glob("*.jinja"))
}
COMMON = ("<|im_start|>", "<|im_end|>", "<s>", "</s>", "<|eot_id|>", "<|start_header_id|>", "<unk>")
WRITTEN = re.compile(
    r"<\|[^|<>\s{}'\"]+\|?>|<[^|<>\s{}'\"]+\|>|<｜[^<>\s{}'\"]+｜>|\[/?[A-Z_]{3,}\]|</?(?:start|end)_of_\w+>|<seed:[be]os>"
)
"""How templates write control tokens."""
WORDS = ("Hello there", "the weather", " ", "\n", '{"a": 1}', "[1, 2]", "<b>x</b>", "user", "a < b", "x")
CALL_ID = "callid000"
VARIABLES = {"bos_token": "<s>", "eos_token": "</s>"}


def control_tokens(template: str) -> tuple[str, ...]:
    """The control tokens that a template writes, and some of other models."""
    return tuple(sorted({*COMMON, *WRITTEN.findall(template)}))


class Conversations:
    """A source of conversations.

    Args:
        tokens: control tokens, written whole and in part.
        phrases: what the template itself looks for or writes.
    """

    def __init__(self, rng: random.Random, tokens: Sequence[str], phrases: Sequence[str]) -> None:
        self._rng, self._tokens, self._phrases = rng, tokens, phrases

    def text(self, pieces: int = 5) -> str:
        return "".join(self._piece() for _ in range(self._rng.randint(1, pieces)))

    def _piece(self) -> str:
        rng, token = self._rng, self._rng.choice(self._tokens)
        cut = rng.randint(1, len(token))
        kinds = ("token", "begin", "end", "phrase", "word")
        match rng.choices(kinds, (7, 2, 1, 3, 7))[0]:
            case "token":
                return token
            case "begin":
                return token[:cut]
            case "end":
                return token[cut - 1 :]
            case "phrase" if self._phrases:
                return rng.choice(self._phrases)
            case _:
                return rng.choice(WORDS)

    def _name(self) -> str:
        return self.text(2) if self._rng.random() < 0.5 else "look"

    def content(self) -> Any:
        if self._rng.random() < 0.7:
            return self.text()
        return [{"type": "text", "text": self.text(3)} for _ in range(self._rng.randint(1, 3))]

    def tools(self) -> list[dict[str, Any]] | None:
        if self._rng.random() < 0.5:
            return None
        argument = {"type": "string", "description": self.text(), self._name(): self.text()}
        schema = {"type": "object", "properties": {self._name(): argument}, "required": []}
        function = {"name": self._name(), "description": self.text(), "parameters": schema}
        return [{"type": "function", "function": function}]

    def messages(self) -> list[dict[str, Any]]:
        rng = self._rng
        found: list[dict[str, Any]] = [{"role": "system", "content": self.content()}] if rng.random() < 0.5 else []
        for _ in range(rng.randint(1, 2)):
            found.append({"role": "user", "content": self.content()})
            kind = rng.random()
            if kind < 0.4:
                found.append({"role": "assistant", "content": self.content()})
                if rng.random() < 0.4:
                    found[-1]["reasoning_content"] = self.text()
            elif kind < 0.7:
                found += self._call()
        if found[-1]["role"] == "assistant":
            found.append({"role": "user", "content": self.content()})
        return found

    def _call(self) -> list[dict[str, Any]]:
        name, arguments = self._name(), {self._name(): self.text(), "n": 1, "l": [self.text()]}
        call = {"id": CALL_ID, "type": "function", "function": {"name": name, "arguments": arguments}}
        said = None if self._rng.random() < 0.5 else self.text()
        result = {"role": "tool", "tool_call_id": CALL_ID, "name": name, "content": self.content()}
        answer = [{"role": "assistant", "content": self.text()}] if self._rng.random() < 0.5 else []
        return [{"role": "assistant", "content": said, "tool_calls": [call]}, result, *answer]


def neutral(value: Any, tokens: Sequence[str]) -> Any:
    """A copy without the first characters of control tokens."""
    table = {ord(token[0]): "‹" for token in tokens}
    if isinstance(value, str):
        return value.translate(table)
    if isinstance(value, Mapping):
        return {neutral(key, tokens): neutral(inner, tokens) for key, inner in value.items()}
    return [neutral(inner, tokens) for inner in value] if isinstance(value, list) else value
