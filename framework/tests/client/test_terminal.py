"""Chat and completions in the terminal, piped and typed."""

from __future__ import annotations

import io
import json
import os
import pty
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from server_fakes import WORDS, FakeEngine, serving

from dovetail.api.errors import UsageError
from dovetail.cli.main import main
from dovetail.client.chat import run_chat
from dovetail.client.complete import run_completion
from dovetail.client.http import ChatClient, ClientError, Piece
from dovetail.client.thinking import split_thoughts
from dovetail.client.views import MarkdownView, PlainView, View, finished_length
from dovetail.server.settings import ServerSettings

TEXT = "".join(WORDS)


def pipe(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


def test_questions_from_a_pipe(
    live: str, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe(monkeypatch, "one\n\ntwo\n/clear\nthree\n/system Be brief.\nfour\n/nothing\n/usr/bin is what?\n")
    assert run_chat(live, system="Be kind.", temperature=0.0, max_tokens=None) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{TEXT}\n" * 5
    assert "no command /nothing" in captured.err
    prompts = [engine.tokenizer.decode(prompt) for prompt, _ in engine.asked]
    assert prompts == [
        "<system>Be kind.<user>one",
        f"<system>Be kind.<user>one<assistant>{TEXT}<user>two",
        "<system>Be kind.<user>three",
        "<system>Be brief.<user>four",
        f"<system>Be brief.<user>four<assistant>{TEXT}<user>/usr/bin is what?",
    ]
    assert engine.asked[0][1].temperature == 0


def test_thoughts_are_left_out_of_a_pipe_and_of_the_history(
    live: str, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.words = ("<thi", "nk>hm", "m</th", "ink>", "\n\nYes", ".")
    pipe(monkeypatch, "one\ntwo\n")
    run_chat(live)
    assert capsys.readouterr().out == "Yes.\nYes.\n"
    assert engine.tokenizer.decode(engine.asked[1][0]) == "<user>one<assistant>Yes.<user>two"


def test_failures_are_one_line(live: str, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe(monkeypatch, "one\n")
    with pytest.raises(ClientError, match="no server answers at http://127"):
        run_chat("127.0.0.1:9")
    with pytest.raises(ClientError, match="the model 'other' does not exist"):
        run_chat(live, model="other")
    with pytest.raises(UsageError, match="not the URL"):
        run_chat("ftp://x")
    pipe(monkeypatch, "one\n")
    engine.fail_at = 3
    with pytest.raises(ClientError, match="the server failed: internal error"):
        run_chat(live)


def test_models(live: str) -> None:
    with ChatClient(f"{live}/v1/") as client:
        assert client.models() == ["fake/model"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", [("plain", False)]),
        ("<think>a</think>b", [("a", True), ("b", False)]),
        (" \n<think>a</think>b<think>c", [("a", True), ("b<think>c", False)]),
        ("a <think> b", [("a <think> b", False)]),
        ("<think>a < b</think>", [("a < b", True)]),
        ("<think>open", [("open", True)]),
        ("<thin", [("<thin", False)]),
        ("a <th", [("a <th", False)]),
        ("  a", [("  a", False)]),
    ],
)
def test_thoughts_are_found_wherever_the_text_is_cut(text: str, expected: list[tuple[str, bool]]) -> None:
    for size in range(1, len(text) + 1):
        joined: list[list[object]] = []
        for piece in split_thoughts(Piece(text[i : i + size]) for i in range(0, len(text), size)):
            if joined and joined[-1][1] == piece.thought:
                joined[-1][0] = f"{joined[-1][0]}{piece.text}"
            else:
                joined.append([piece.text, piece.thought])
        assert [tuple(part) for part in joined] == expected, size


@pytest.mark.parametrize(
    ("text", "done"),
    [
        ("one", ""),
        ("one\n", ""),
        ("one\n\n", "one\n\n"),
        ("one\n\ntwo", "one\n\n"),
        ("```\na\n\nb\n", ""),
        ("```\na\n\nb\n```\n\nc", "```\na\n\nb\n```\n\n"),
        ("~~~\n```\n\n", ""),
    ],
)
def test_finished_blocks(text: str, done: str) -> None:
    assert text[: finished_length(text)] == done


class Terminal:
    """A process that believes that somebody sits before it."""

    def __init__(self, url: str, rich: bool) -> None:
        hide = "" if rich else "import sys; sys.modules['rich.console'] = None; "
        code = f"{hide}from dovetail.client.chat import run_chat; raise SystemExit(run_chat({url!r}))"
        self.pid, self.end = pty.fork()
        if not self.pid:
            os.environ["TERM"] = "xterm"
            signal.signal(
                signal.SIGINT, signal.SIG_DFL
            )  # whoever started the tests may have it ignored, which is inherited
            os.execv(sys.executable, [sys.executable, "-c", code])
        self.seen = ""

    def until(self, text: str, seconds: float = 10.0) -> None:
        os.set_blocking(self.end, False)
        deadline = time.monotonic() + seconds
        while text not in self.seen:
            assert time.monotonic() < deadline, self.seen
            try:
                self.seen += os.read(self.end, 4096).decode(errors="replace")
            except BlockingIOError:
                time.sleep(0.01)
        self.seen = self.seen.split(text, 1)[1]

    def type(self, text: str) -> None:
        os.write(self.end, text.encode())

    def wait(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.mark.skipif(not Path("/dev/ptmx").exists(), reason="needs pseudo-terminals")
@pytest.mark.parametrize("rich", [False, True])
def test_terminal(live: str, engine: FakeEngine, until, rich: bool) -> None:
    if rich:
        pytest.importorskip("rich")
    terminal = Terminal(live, rich)
    terminal.until("> ")
    terminal.type("one\r")
    terminal.until("Paris is the capital of France.")
    terminal.until("> ")
    engine.delay, engine.words = 0.02, ("<think>so", "</think>\n\n", *("word ",) * 400)
    terminal.type('"""two\r')
    terminal.until("… ")
    terminal.type('three"""\r')
    terminal.until("\x1b[2m")
    terminal.until("word")
    terminal.type("\x03")
    until(lambda: engine.aborted)
    terminal.until("> ")
    assert engine.tokenizer.decode(engine.asked[1][0]).endswith("<user>two\nthree")
    terminal.type("\x03")
    terminal.until("a new conversation")
    engine.words = WORDS
    terminal.type("four\r")
    terminal.until("France")
    assert engine.tokenizer.decode(engine.asked[2][0]) == "<user>four"
    terminal.until("> ")
    terminal.type("\x04")
    assert terminal.wait() == 0


# dovetail complete


def test_a_completion_is_written_as_it_is(
    live: str, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.words = (" Paris", ".", "\n\n", " <think>yes")
    assert run_completion(live, "The capital", temperature=0.0, max_tokens=9, seed=None) == 0
    assert capsys.readouterr().out == " Paris.\n\n <think>yes\n"
    prompt, params = engine.asked[0]
    assert engine.tokenizer.decode(prompt) == "The capital"
    assert (params.temperature, params.max_tokens) == (0, 9)
    pipe(monkeypatch, "two\nlines\n")
    run_completion(live, None)
    assert engine.tokenizer.decode(engine.asked[1][0]) == "two\nlines"


def test_a_completion_needs_a_text_and_a_server(live: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe(monkeypatch, "\n")
    with pytest.raises(UsageError, match="the prompt is empty"):
        run_completion(live, None)
    with pytest.raises(ClientError, match="the model 'other' does not exist"):
        run_completion(live, "x", model="other")
    with pytest.raises(ClientError, match="no server answers"):
        run_completion("127.0.0.1:9", "x")


@pytest.mark.parametrize("command", ["chat", "complete"])
def test_options_of_the_engine_do_not_go_with_a_url(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--url", "http://127.0.0.1:9", "--dtype", "float32", "--max-num-seqs", "3"]) == 2
    assert "--dtype and --max-num-seqs cannot change the server at --url" in capsys.readouterr().err
    assert main([command, "--api-key", "k"]) == 2
    assert "--api-key is for the server at --url, and there is none" in capsys.readouterr().err


def test_the_command_takes_the_key_of_the_environment(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(engine, ServerSettings(api_key=["right"])) as url:
        monkeypatch.setenv("DOVETAIL_API_KEY", "right")
        assert main(["complete", "--url", url, "--prompt", "x", "--max-tokens", "2"]) == 0
        assert capsys.readouterr().out == "Paris is\n"
        assert main(["complete", "--url", url, "--prompt", "x", "--api-key", "wrong"]) == 1
        assert "give the key with --api-key" in capsys.readouterr().err


# What a server says must not reach the terminal's own commands.

SEQUENCES = (
    "\x1b]0;owned\x07",
    "\x1b[2J",
    "\x9b31m",
    "\x1b]52;c;b3duZWQ=\x07",
    "&#27;]0;owned&#7;",
    "\ud800",
    " safe\r\n",
)


class FakeTerminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("rich", [False, True])
def test_answers_have_no_control_characters_in_a_terminal(monkeypatch: pytest.MonkeyPatch, rich: bool) -> None:
    if rich:
        console = pytest.importorskip("rich.console")
        shown = FakeTerminal()
        view: View = MarkdownView(console.Console(file=shown, force_terminal=True, color_system=None, width=200))
    else:
        shown = FakeTerminal()
        monkeypatch.setattr("sys.stdout", shown)
        view = PlainView(terminal=True)
    view.show(Piece(text, thought) for thought in (True, False) for text in SEQUENCES)
    text = shown.getvalue()
    for sequence in ("\x1b]", "\x9b", "\x07", "\x1b[2J\x9b", "\ud800"):
        assert sequence not in text.replace("\x1b[2K", "")
    assert "safe" in text
    assert "\\x1b]0;owned\\x07" in text


@pytest.mark.parametrize("terminal", [True, False])
def test_completions_have_none_in_a_terminal_and_all_in_a_pipe(
    live: str, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    engine.words = ("\x1b]0;owned\x07", "\x9b31m")
    shown = FakeTerminal() if terminal else io.StringIO()
    monkeypatch.setattr("sys.stdout", shown)
    run_completion(live, "x")
    assert shown.getvalue() == ("\\x1b]0;owned\\x07\\x9b31m\n" if terminal else "\x1b]0;owned\x07\x9b31m\n")


class HostileHandler(BaseHTTPRequestHandler):
    """Names its model, and refuses, with sequences for terminals."""

    def do_GET(self) -> None:
        self._say(200, {"data": [{"id": "m\x1b]0;owned\x07\n2"}]})

    def do_POST(self) -> None:
        self._say(400, {"error": {"message": "no\x1b[2J\n\x9b31m " + "x" * 10**6}})

    def log_message(self, *_: object) -> None:
        pass

    def _say(self, status: int, body: Any) -> None:
        raw = json.dumps(body).encode()
        self.rfile.read(int(self.headers.get("Content-Length") or 0))  # or the connection would be reset
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)


@pytest.mark.parametrize("command", ["chat", "complete"])
def test_errors_of_servers_are_one_clean_line(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    server = HTTPServer(("127.0.0.1", 0), HostileHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}"
        assert main([command, "--url", url, "--prompt", "x"]) == 1
    finally:
        server.shutdown()
        server.server_close()
    error = capsys.readouterr().err.removesuffix("\n")
    assert error.startswith("error: the server refused: no\\x1b[2J \\x9b31m xxx")
    assert error.isprintable()
    assert len(error) < 1500
