"""``dovetail serve`` as strangers meet it: encrypted, behind keys, over a socket's file, and silent about secrets."""

from __future__ import annotations

import os
import ssl
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import openai
import psutil
import pytest
import trustme

from ..serving import Server, serving, until
from ..tiny import write_checkpoint

KEYS = ("key-of-the-flag", "key-of-the-file", "key-of-the-environment")
PROMPT = "prompt-of-a-customer"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("tiny"))


# -- TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def certificate(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Flags for a server whose clients show certificates, too."""
    folder = tmp_path_factory.mktemp("tls")
    files = {name: str(folder / f"{name}.pem") for name in ("cert", "key", "ca")}
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(files["key"])
    for blob in issued.cert_chain_pems:
        blob.write_to_path(files["cert"], append=True)
    authority.cert_pem.write_to_path(files["ca"])
    return ("--ssl-certfile", files["cert"], "--ssl-keyfile", files["key"], "--ssl-ca-certs", files["ca"])


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
def test_clients_speak_tls(checkpoint: Path, authority: trustme.CA, certificate: tuple[str, ...]) -> None:
    with serving(str(checkpoint), *certificate[:4]) as server:
        assert server.url.startswith("https://")
        with httpx2.Client(verify=trusting(authority)) as http:
            client = server.client(http_client=http)
            stream = client.completions.create(model=str(checkpoint), prompt="a", max_tokens=5, stream=True)
            assert list(stream)[-1].choices[0].finish_reason == "length"
        with pytest.raises(httpx2.ConnectError, match="certificate verify failed"):
            httpx2.get(f"{server.url}/health")
        old = trusting(authority)
        old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(httpx2.ConnectError):
            httpx2.get(f"{server.url}/health", verify=old)
        with pytest.raises(httpx2.RemoteProtocolError):
            httpx2.get(server.url.replace("https", "http") + "/health")


def test_clients_show_certificates(checkpoint: Path, authority: trustme.CA, certificate: tuple[str, ...]) -> None:
    def ask(signer: trustme.CA | None) -> int:
        context = trusting(authority)
        if signer is not None:
            signer.issue_cert("client@example.com").configure_cert(context)
        return httpx2.get(f"{server.url}/health", verify=context).status_code

    with serving(str(checkpoint), *certificate) as server:
        assert ask(authority) == 200
        for signer in (None, trustme.CA()):
            with pytest.raises(httpx2.TransportError):
                ask(signer)


# -- a socket's file


def test_clients_of_a_socket_s_file(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with serving(str(checkpoint), "--uds", str(path), "--api-key", "k", "--root-path", "/llm") as server:
        assert server.url == f"unix:{path}"
        assert not path.stat().st_mode & 0o022, "other users could connect"
        with httpx2.Client(transport=httpx2.HTTPTransport(uds=str(path))) as http:
            client = openai.OpenAI(base_url="http://localhost/llm/v1", api_key="k", http_client=http)
            answer = client.completions.with_raw_response.create(
                model=str(checkpoint), prompt="a", extra_headers={"X-Request-Id": "mine"}
            )
            assert answer.headers["x-request-id"] == "mine"
            assert answer.parse().usage is not None
            assert http.get("http://localhost/v1/models").status_code == 401


# -- sockets of its own


@pytest.mark.parametrize("processes", ["1", "2"])
def test_the_port_of_the_server_is_the_only_one(checkpoint: Path, tmp_path: Path, processes: str) -> None:
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    with serving(str(checkpoint), "--api-server-count", processes, TMPDIR=str(folder)) as server:
        family = server.family()
        assert len(family) == (3 if processes == "1" else 6)  # with those that run chat templates
        open_ports = {
            (connection.laddr.ip, connection.laddr.port)
            for process in family
            for connection in process.net_connections("inet")
            if connection.status in (psutil.CONN_LISTEN, psutil.CONN_NONE)  # the latter are of UDP
        }
        assert open_ports == {("127.0.0.1", int(server.url.rpartition(":")[2]))}
        body = {"model": str(checkpoint), "input": "a", "max_output_tokens": 2}
        assert httpx2.post(f"{server.url}/v1/responses", json=body, timeout=60).status_code in (200, 400)
        bound = {connection.laddr for process in family for connection in process.net_connections("unix")}
        private = {Path(path).parent for path in bound if "dovetail-" in path}
        assert len(private) == (1 if processes == "1" else 2)
        for found in private:
            assert stat.S_IMODE(found.stat().st_mode) == 0o700
            assert not found.is_relative_to(folder)
        assert any((found / "kept.sqlite").exists() for found in private) == (processes == "2")
        server.process.kill()
        until(lambda: not any(found.exists() for found in private))
    assert not list(folder.iterdir())


# -- secrets


@pytest.fixture(scope="module")
def guarded(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text(f"# ours\n{KEYS[1]}\n")
    flags = ("--api-key", KEYS[0], "--api-key-file", str(file), "--log-level", "debug", "--uvicorn-log-level", "debug")
    flags += ("--api-server-count", "2")
    with serving(str(checkpoint), "--served-model-name", "tiny", *flags, DOVETAIL_API_KEY=KEYS[2]) as server:
        yield server


def test_keys_from_everywhere_let_in(guarded: Server) -> None:
    for key in KEYS:
        assert guarded.client(api_key=key).models.list().data
    for key in ("", "none", ",".join(KEYS)):
        with pytest.raises((openai.AuthenticationError, openai.OpenAIError)):
            guarded.client(api_key=key or "x").models.list()


def test_no_process_shows_keys_of_file_and_environment(guarded: Server) -> None:
    family = guarded.family()
    assert len(family) > 1
    for process in family:
        assert not any(key in " ".join(process.cmdline()) for key in KEYS[1:])
    for child in family[1:]:
        assert not any(key in "".join(child.cmdline()) + repr(child.environ()) for key in KEYS)


def test_answers_and_log_hold_no_secrets(guarded: Server) -> None:
    told: list[str] = []

    def ask(method: str, path: str, key: str, **kwargs: object) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {key}", "X-Api-Key": key, "Cookie": f"key={key}", "X-Request-Id": "id"}
        answer = httpx2.request(method, guarded.url + path, headers=headers, timeout=60, **kwargs)  # type: ignore[arg-type]
        told.append(f"{answer.headers}{answer.text}")
        return answer

    for key in (*KEYS, "key-of-a-stranger"):
        for path in ("/health", "/v1/models", "/load", "/stats", "/metrics", "/openapi.json", "/docs", "/", "/version"):
            ask("GET", path, key)
        ask("GET", f"/v1/models?api_key={key}", key)
        ask("GET", f"/nothing?api_key={key}", key)
    for body in (
        {"prompt": PROMPT, "max_tokens": 2},
        {"prompt": PROMPT, "max_tokens": 2, "stream": True},
        {"prompt": PROMPT, "max_tokens": "many"},
        {"prompt": PROMPT, "max_tokens": 10**6},
        {"prompt": PROMPT, "model": "none"},
        {"prompt": PROMPT, "guided_regex": "("},
        {"messages": [{"role": "user", "content": PROMPT}]},
    ):
        ask("POST", "/v1/completions", KEYS[0], json=body)
        ask("POST", "/v1/chat/completions", KEYS[0], json=body)
    answers, log = "".join(told), "".join(guarded.log)
    assert not any(key in answers for key in KEYS)
    assert not any(secret in log for secret in (*KEYS, PROMPT))  # in its own answer a client may find what was wrong
    assert "Traceback" not in answers
    assert "Traceback" not in log
    assert "POST /v1/completions" in log


def test_help_and_a_failing_start_show_no_key(checkpoint: Path) -> None:
    for arguments in (["--help"], [str(checkpoint), "--ssl-keyfile", "x"], [str(checkpoint), "--port", "none"]):
        done = subprocess.run(
            [sys.executable, "-m", "dovetail", "serve", *arguments],
            env=os.environ | {"DOVETAIL_API_KEY": KEYS[2]},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert KEYS[2] not in done.stdout + done.stderr
