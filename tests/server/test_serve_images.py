"""Images over HTTP: a tiny model that sees, served as users serve it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.serving import Server, serving
from tests.tiny_vision import IMAGE_TOKENS, data_url, encoded, picture, write_vision_checkpoint

pytest.importorskip("PIL")


class Files(BaseHTTPRequestHandler):
    """Answers with an image, with redirects to it and elsewhere, and with more bytes than anybody wants."""

    asked: list[str] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        port = self.server.server_address[1]
        targets = {"/near": f"http://127.0.0.1:{port}/image", "/far": f"http://localhost:{port}/image"}
        targets["/file"] = "file:///etc/passwd"
        self.send_response(302 if self.path in targets else 200 if self.path in ("/image", "/large") else 404)
        if self.path in targets:
            self.send_header("location", targets[self.path])
        self.end_headers()
        if self.path == "/image":
            self.wfile.write(encoded(picture(3)))
        if self.path == "/large":
            self.wfile.write(b"x" * 300_000)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def files() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Files)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a picture, a link out of it, and a picture beside it."""
    top = tmp_path_factory.mktemp("images")
    inside = top / "inside"
    inside.mkdir()
    (inside / "one.png").write_bytes(encoded(picture(3)))
    (top / "secret.png").write_bytes(encoded(picture(3)))
    (inside / "link.png").symlink_to(top / "secret.png")
    return inside


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[Server]:
    model = write_vision_checkpoint(tmp_path_factory.mktemp("llava"))
    options = ["--dtype", "float32", "--kv-cache-memory-bytes", "16M", "--max-num-batched-tokens", "16"]
    limits = ["--limit-mm-per-prompt", "image=2", "--max-image-bytes", "200000", "--max-image-pixels", "10000"]
    places = ["--allowed-local-media-path", str(folder), "--allowed-media-domains", "127.0.0.1"]
    with serving(str(model), "--served-model-name", "tiny", *options, *limits, *places) as running:
        yield running


def ask(server: Server, *parts: Any, **more: Any) -> httpx2.Response:
    messages = [{"role": "user", "content": [{"type": "text", "text": p} if isinstance(p, str) else p for p in parts]}]
    body = {"messages": messages, "max_tokens": 6, "temperature": 0, "ignore_eos": True, "logprobs": True}
    return httpx2.post(f"{server.url}/v1/chat/completions", json={**body, **more}, timeout=60)


def image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, "detail": "auto"}}


def answer(response: httpx2.Response) -> list[float]:
    """The logprobs of the answer's tokens: a tiny model may choose the same ones for any image."""
    assert response.status_code == 200, response.text
    return [token["logprob"] for token in response.json()["choices"][0]["logprobs"]["content"]]


def refusal(response: httpx2.Response) -> str:
    assert response.status_code == 400, response.text
    message: str = response.json()["error"]["message"]
    return message


def test_answers_depend_on_images_and_not_on_where_they_come_from(server: Server, files: str, folder: Path) -> None:
    text = answer(ask(server, "What is it?"))
    first = ask(server, image(data_url(picture(3))), "What is it?")
    seen = answer(first)
    prompt = len("user: ") + IMAGE_TOKENS + len("What is it?") + len("assistant: ")
    assert first.json()["usage"]["prompt_tokens"] == prompt
    assert answer(ask(server, image(f"{files}/image"), "What is it?")) == seen
    assert answer(ask(server, image(f"{files}/near"), "What is it?")) == seen
    assert answer(ask(server, image((folder / "one.png").as_uri()), "What is it?")) == seen
    others = [answer(ask(server, image(data_url(picture(n))), "What is it?")) for n in range(4, 8)]
    assert len({tuple(each) for each in [seen, *others]}) == 5
    assert text != seen
    both = [answer(ask(server, image(data_url(picture(a))), image(data_url(picture(b))))) for a, b in ((3, 4), (4, 3))]
    assert both[0] != both[1]


def test_what_is_not_allowed_is_refused_with_the_reason(server: Server, files: str, folder: Path) -> None:
    asked = len(Files.asked)
    port = files.rpartition(":")[2]
    for url, told in {
        f"http://localhost:{port}/image": "is at the host 'localhost', and this server fetches images only from 127.0.0.1",
        f"http://127.0.0.1@localhost:{port}/image": "holds a user name",
        "https://user:pass@127.0.0.1/": "holds a user name",
        "ftp://127.0.0.1/image": "an image's URL is",
        "nothing": "an image's URL is",
        (folder.parent / "secret.png").as_uri(): "is not an image's file below the folder",
        (folder / "link.png").as_uri(): "is not an image's file below the folder",
        (folder / "none.png").as_uri(): "is not an image's file below the folder",
        f"file://{folder}/../secret.png": "is not an image's file below the folder",
        f"file://elsewhere{folder}/one.png": "names a host",
        folder.as_uri(): "is not an image's file below the folder",
        "data:image/png;base64,!!!": "no valid base64",
        "data:image/png;base64": "no comma",
        "data:image/png;base64,aGVsbG8=": "is none of PNG, JPEG",
        "data:text/html,<svg>": "is none of PNG, JPEG",
        data_url(picture(1))[:-2000]: "cannot be decoded",
        data_url(picture(1, 300, 300)): "more than 200000 bytes",
        data_url(picture(1, 200, 51), "JPEG"): "more than 10000 pixels (200 x 51)",
    }.items():
        assert told in refusal(ask(server, image(url))), url
    assert len(Files.asked) == asked, "a host that is not allowed was asked"
    for path, told in {
        "/far": "is at the host 'localhost'",
        "/file": "leads to the scheme 'file'",
        "/large": "more than 200000 bytes",
        "/missing": "status 404",
    }.items():
        assert told in refusal(ask(server, image(files + path))), path
    three = [image(data_url(picture(n))) for n in range(3)]
    assert "3 images were given for one prompt, and the limit is 2" in refusal(ask(server, *three))
    assert "truncate_prompt_tokens does not go with images" in refusal(ask(server, three[0], truncate_prompt_tokens=5))
    assert "image parts such as" in refusal(ask(server, {"type": "image_url"}))
    answer(ask(server, three[0]))


def test_placeholders_in_texts_are_texts(server: Server) -> None:
    plain = ask(server, "<image>")
    assert plain.json()["usage"]["prompt_tokens"] == len("user: <image>assistant: ")
    both = ask(server, image(data_url(picture(3))), "<image>")
    assert both.json()["usage"]["prompt_tokens"] == len("user: <image>assistant: ") + IMAGE_TOKENS
