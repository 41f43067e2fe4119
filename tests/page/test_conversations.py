"""Conversations on the web page: how they go on, and what the browser keeps of them."""

from __future__ import annotations

import json
import re

from selenium.webdriver.common.keys import Keys
from server_fakes import WORDS, FakeEngine

from ..browser import Page, needs_browser
from ..serving import until
from .shared import Open, answer, asked, words

pytestmark = needs_browser


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

    page.click("#new-chat")
    assert not page.all("#messages > li")
    page.driver.refresh()
    assert page.one("#welcome").is_displayed()
    assert page.console() == []


def titles(page: Page) -> list[str]:
    return [row.text for row in page.all("#chat-list .open")]


def test_conversations_are_kept_and_can_be_named_and_deleted(opened: Open, engine: FakeEngine) -> None:
    page = opened()
    assert page.one("#chats-note").is_displayed()
    answer(page, "First?")
    page.click("#new-chat")
    answer(page, "Second?")
    assert titles(page) == ["Second?", "First?"]
    assert asked(engine) == [{"role": "user", "content": "Second?"}], "a new conversation knows nothing of the other"
    page.driver.refresh()
    page.until(lambda: page.text(".said") == "Second?")
    page.click("#chat-list .open", "First?")
    assert page.text(".said") == "First?"
    assert "Paris" in page.text(".answer .text")
    page.click("#chat-list button", "Rename")
    page.type("#chat-list input", "On capitals" + Keys.ENTER)
    assert titles(page) == ["Second?", "On capitals"]
    answer(page, "And?")
    assert titles(page) == ["On capitals", "Second?"], "the newest comes first"

    first = page.driver.current_window_handle
    page.driver.switch_to.new_window("tab")
    try:
        page.driver.get(page.url)
        page.until(lambda: titles(page) == ["On capitals", "Second?"])
        assert not page.all("#messages > li"), "a new tab begins anew"
        page.click("#chat-list .open", "On capitals")
        page.click("#chat-list button", "Delete")
        page.click("#chat-list button", "Keep")
        assert len(page.all(".said")) == 2
        page.click("#chat-list button", "Delete")
        page.click("#chat-list button", "Delete")
        page.until(lambda: titles(page) == ["Second?"])
        assert page.one("#welcome").is_displayed()
    finally:
        page.driver.close()
        page.driver.switch_to.window(first)
    page.until(lambda: titles(page) == ["Second?"])
    assert not page.all("#messages > li"), "what another tab deletes is gone here, too"
    answer(page, "Third?")
    page.click("#delete-all button", "Delete all")
    page.click("#delete-all button", "Delete")
    page.until(lambda: titles(page) == [])
    assert page.run("return Object.keys(localStorage).filter((key) => key !== 'dovetail.settings')") == []
    assert page.console() == []


def test_an_answer_goes_on_while_another_conversation_is_shown(opened: Open, engine: FakeEngine) -> None:
    engine.words, engine.delay = [" one"] * 30, 0.05
    page = opened()
    page.ask("Long?")
    page.until(lambda: "one one" in page.text(".answer .text"))
    page.click("#new-chat")
    assert page.all("#chat-list .running")
    assert page.text("#send") == "Send"
    page.until(lambda: not page.all("#chat-list .running"))
    page.click("#chat-list .open", "Long?")
    assert page.text(".answer .text") == " ".join(["one"] * 30)
    assert page.text(".facts").startswith("30 tokens")
    assert page.console() == []


def test_an_answer_that_is_left_keeps_what_had_come(opened: Open, engine: FakeEngine) -> None:
    engine.words, engine.delay = [" on"] * 1000, 0.02
    page = opened()
    page.ask("Long?")
    page.until(lambda: "on on on" in page.text(".answer .text"))
    page.driver.refresh()
    page.until(lambda: "on on on" in page.text(".answer .text"))
    facts = re.fullmatch(r"(\d+) tokens · [\d.]+ tokens/s · first after [\d.]+ s · stopped", page.text(".facts"))
    assert facts, page.text(".facts")
    assert int(facts[1]) == len(page.text(".answer .text").split())
    assert page.text("#send") == "Send"
    engine.words, engine.delay = WORDS, 2  # and one that is stopped before its first token
    page.click(".answer button", "Regenerate")
    page.until(lambda: page.text("#send") == "Stop")
    page.click("#send")
    page.until(lambda: page.text(".facts") == "0 tokens · stopped")


def test_a_conversation_that_has_no_room_says_so(opened: Open) -> None:
    page = opened()
    answer(page, "First?")
    page.run("""
        for (let size = 1 << 22; size; size >>= 1) {
            try { localStorage.setItem(`dovetail.messages.filler${size}`, " ".repeat(size)); } catch {}
        }
    """)
    page.click("#new-chat")
    answer(page, "Second?")
    assert "no room to keep this conversation" in page.text("#storage-trouble")
    assert titles(page) == ["Second?", "First?"]
    page.run("Object.keys(localStorage).filter((k) => k.includes('filler')).forEach((k) => localStorage.removeItem(k))")
    page.click("#chat-list .open", "First?")
    page.click("#chat-list button", "Delete")
    page.click("#chat-list button", "Delete")  # which makes room
    page.driver.refresh()
    page.until(lambda: titles(page) == ["Second?"])
    page.click("#chat-list .open", "Second?")
    assert "Paris" in page.text(".answer .text")
    assert page.text("#storage-trouble") == ""


def test_what_others_wrote_into_the_storage_does_no_harm(opened: Open) -> None:
    page = opened()
    head = json.dumps({"title": "Odd", "changed": 1})
    stored = {
        "dovetail.chat.a": "{",
        "dovetail.chat.b": '{"title": 5}',
        "dovetail.chat.c": head,
        "dovetail.messages.c": '[1, null, {"role": "user", "content": "Kept?"}, {"role": "user"}, {"role": "x", "content": "Yes."}]',
        "dovetail.settings": "[]",
    }
    page.run("Object.assign(localStorage, arguments[0])", stored)
    page.driver.refresh()
    page.until(lambda: titles(page) == ["Odd"])
    page.click("#chat-list .open", "Odd")
    assert [page.text(".said"), page.text(".answer .text")] == ["Kept?", "Yes."]
    answer(page)
    assert page.console() == []
