"""What the tests of the web page share."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from server_fakes import FakeEngine

from ..browser import Page

Open = Callable[..., Page]
"""Opens the page of a server; takes the path, and the server's settings by name."""

MARKDOWN = """<think>The user wants **much**.</think>

# Joints

Some are *tight*, see [this](https://example.com/joints).
A second line.

1. one
2. two

3. three

| wood | weight |
|---|---:|
| oak | 0.75 |

```python
print("<b>")
```
"""


def words(text: str) -> list[str]:
    return re.findall(r"\s*\S+|\s+$", text)


def answer(page: Page, question: str = "Well?") -> None:
    page.ask(question)
    page.answered()


def asked(engine: FakeEngine) -> list[dict[str, Any]]:
    """The messages of the last request."""
    messages: list[dict[str, Any]] = engine.tokenizer.last["messages"]
    return [{"role": m["role"], "content": m["content"]} for m in messages]
