"""Bodies in the encodings that clients write: with byte-order marks, in UTF-16 and UTF-32, and with a charset."""

from __future__ import annotations

import codecs
import json

import pytest
from server_fakes import FakeEngine

from dovetail.server.http.errors import ApiError
from dovetail.server.protocol.body import to_utf8

TEXT = "Zürich 東京 🌦"
BODY = json.dumps({"prompt": TEXT, "add_special_tokens": False, "max_tokens": 1}, ensure_ascii=False)
MARKED = {
    "utf-8": codecs.BOM_UTF8,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
}


@pytest.mark.parametrize(
    "charset", ["", "; charset=utf-8", '; charset="UTF-16"', "; charset=utf-16; x=y", "; charset=?"]
)
@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize("encoding", MARKED)
def test_unicode_is_known_by_its_bytes(ask, engine: FakeEngine, encoding: str, marked: bool, charset: str) -> None:
    raw = MARKED[encoding] * marked + BODY.encode(encoding)
    response = ask("POST", "/v1/completions", content=raw, headers={"content-type": f"application/json{charset}"})
    assert response.status_code == 200, response.text
    assert bytes(engine.asked[0][0]).decode() == TEXT


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/invocations"])
def test_routes_that_read_the_body_again(ask, engine: FakeEngine, path: str) -> None:
    body = {"messages": [{"role": "user", "content": TEXT}], "store": True}
    response = ask(
        "POST", path, content=json.dumps(body).encode("utf-16"), headers={"content-type": "application/json"}
    )
    assert response.status_code == 200, response.text
    assert engine.tokenizer.last["messages"][0]["content"] == TEXT


@pytest.mark.parametrize("charset", ["iso-8859-1", "latin1", "windows-1252", "ISO-8859-15"])
def test_single_bytes_are_read_as_the_client_calls_them(charset: str) -> None:
    raw = '{"a": "Zürich"}'.encode(charset)
    assert to_utf8(raw, charset).decode() == '{"a": "Zürich"}'
    assert to_utf8(raw) == raw, "nobody knows what it is"
    assert to_utf8('{"a": "Zürich"}'.encode(), charset).decode() == '{"a": "Zürich"}', "it is UTF-8 after all"


@pytest.mark.parametrize("charset", ["", "utf-8", "utf-16", "ascii", "idna", "zip", "nothing", "\x00"])
def test_other_bytes_stay_what_they_are(charset: str) -> None:
    assert to_utf8(b'{"a": "\xff"}', charset) == b'{"a": "\xff"}'


@pytest.mark.parametrize(
    "raw",
    [
        b'{"prompt": "\xff"}',
        codecs.BOM_UTF8 + b'{"prompt": "\xff"}',
        '{"prompt": "a"}'.encode("utf-16")[:-1],
        codecs.BOM_UTF16_LE + b"\x00\xd8" + b"{\x00",
        codecs.BOM_UTF32_LE + b"\xff" * 8,
        codecs.BOM_UTF8,
        codecs.BOM_UTF8 * 2 + b"{}",
    ],
)
def test_what_is_no_text_is_refused(ask, raw: bytes) -> None:
    for kind in ("application/json", "application/json; charset=utf-16", "application/json; charset=utf-8"):
        response = ask("POST", "/v1/completions", content=raw, headers={"content-type": kind})
        assert response.status_code == 400
        assert response.json()["error"]["code"] == "invalid_json"


def test_a_broken_body_is_an_error_of_ours() -> None:
    with pytest.raises(ApiError, match="not valid JSON"):
        to_utf8(b"\xff\xfe{")
