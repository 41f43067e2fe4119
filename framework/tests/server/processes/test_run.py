"""The server as a process: its address, its signals, its end."""

from __future__ import annotations

import json
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trustme

from dovetail.api.errors import DovetailError, UsageError
from dovetail.server.http.listen import bind, check_tls, client_certificates, close_socket
from dovetail.server.settings import ServerSettings

SCRIPT = Path(__file__).parents[1] / "serve_fake.py"
MESSAGES = [{"role": "user", "content": "a"}]


class Server:
    def __init__(self, mood: str = "well", **settings: Any) -> None:
        settings = {"log_level": "warning", **settings}
        settings = settings if "uds" in settings else {"port": 0, **settings}
        command = [sys.executable, str(SCRIPT), json.dumps(settings), mood]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.lines: list[str] = []

    def line(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def ready(self) -> str:
        assert self.line() == "loading"
        announced = self.line()
        assert announced.startswith("Dovetail serves fake/model at "), announced
        return announced.split(" at ")[1].split()[0]

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=10)
        return self.process.returncode, out, err


@pytest.fixture
def start() -> Iterator[Any]:
    servers: list[Server] = []

    def begin(mood: str = "well", **settings: Any) -> Server:
        servers.append(Server(mood, **settings))
        return servers[-1]

    yield begin
    for server in servers:
        server.process.kill()
        server.process.communicate()


def test_signal_ends_it_in_order(start) -> None:
    server = start()
    url = server.ready()
    assert httpx2.get(f"{url}/health").status_code == 200
    server.process.send_signal(signal.SIGINT)
    code, out, err = server.end()
    assert (code, out, err) == (0, "stopped\n", "")


def test_its_log_says_that_a_signal_stops_it(start) -> None:
    server = start(log_level="info")
    server.ready()
    server.process.send_signal(signal.SIGINT)
    code, _, err = server.end()
    assert code == 0
    assert "stopping: SIGINT; running requests may finish, another signal ends them\n" in err


def test_running_requests_end_or_are_told(start, until) -> None:
    server = start(shutdown_timeout=2)
    url = server.ready()
    answers: dict[str, str] = {}

    def ask(name: str, tokens: int, stream: bool) -> None:
        body = {"messages": MESSAGES, "max_tokens": tokens, "stream": stream}
        answers[name] = httpx2.post(f"{url}/v1/chat/completions", json=body).text

    asked = [("short", 60, True), ("long", 9000, True), ("whole", 9000, False)]
    threads = [threading.Thread(target=ask, args=each) for each in asked]
    for thread in threads:
        thread.start()
    until(lambda: httpx2.get(f"{url}/load").json() == {"server_load": 3})
    server.process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join()
    assert answers["short"].endswith("[DONE]\n\n")
    assert answers["long"].rstrip().split("\n\n")[-1].startswith('data: {"error":{"message":"the server is stopping')
    assert "the server is stopping" in answers["whole"]
    assert server.end()[:2] == (0, "stopped\n")


def test_while_it_drains_health_and_new_requests_say_so(start, until) -> None:
    server = start(shutdown_timeout=60)
    url = server.ready()
    body = {"messages": MESSAGES, "max_tokens": 40, "stream": True}
    with httpx2.Client() as idle, httpx2.stream("POST", f"{url}/v1/chat/completions", json=body) as running:
        lines = running.iter_lines()
        next(lines)
        assert idle.get(f"{url}/health").status_code == 200
        server.process.send_signal(signal.SIGTERM)
        until(lambda: httpx2.get(f"{url}/health").status_code == 503)
        for path in ("health", "v1/chat/completions"):
            refused = httpx2.get(f"{url}/{path}") if path == "health" else httpx2.post(f"{url}/{path}", json=body)
            assert (refused.status_code, refused.headers["connection"]) == (503, "close")
            assert refused.json()["error"]["code"] == "server_stopping"
        assert list(lines)[-2] == "data: [DONE]"
    assert server.end()[:2] == (0, "stopped\n")


def test_second_signal_does_not_wait(start, until) -> None:
    server = start(shutdown_timeout=60)
    url = server.ready()
    with httpx2.stream("POST", f"{url}/v1/chat/completions", json={"messages": MESSAGES, "stream": True}) as answer:
        lines = answer.iter_lines()
        next(lines)
        server.process.send_signal(signal.SIGINT)
        until(lambda: httpx2.get(f"{url}/health").status_code == 503)
        server.process.send_signal(signal.SIGINT)
        assert "the server is stopping" in list(lines)[-2]
    assert server.end()[0] == 0


def test_signal_while_loading(start) -> None:
    server = start("slow")
    assert server.line() == "loading"
    server.process.send_signal(signal.SIGTERM)
    assert server.end() == (128 + signal.SIGTERM, "", "")


def test_model_that_does_not_load(start) -> None:
    code, _, err = start("broken").end()
    assert (code, err) == (1, "error: the model is broken; take another\n")


def stream(url: str) -> str:
    return httpx2.post(f"{url}/v1/chat/completions", json={"messages": MESSAGES, "stream": True}, timeout=20).text


def last_event(text: str) -> str:
    return text.rstrip().split("\n\n")[-1]


def test_engine_that_dies_is_started_again_once(start, until) -> None:
    server = start("dies")
    url = server.ready()
    assert '"code":"engine_dead"' in last_event(stream(url))
    until(lambda: httpx2.get(f"{url}/health").status_code == 200)
    assert '"code":"engine_dead"' in last_event(stream(url))
    code, out, err = server.end()
    assert (code, out) == (1, "stopped\nloading\nstopped\n")
    died, again, end = err.splitlines()
    assert died == "the engine died: the process was killed; it is being started again"
    assert again.startswith("the engine serves again, after ")
    assert end == "error: the engine ended while serving: it died again: the process was killed"


def test_while_the_engine_is_started_again_clients_are_told_to_come_later(start, until) -> None:
    server = start("slow again")
    url = server.ready()
    assert '"code":"engine_dead"' in last_event(stream(url))
    for path, body in (("health", None), ("v1/chat/completions", {"messages": MESSAGES})):
        answer = httpx2.get(f"{url}/{path}") if body is None else httpx2.post(f"{url}/{path}", json=body)
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        error = answer.json()["error"]
        assert (error["type"], error["code"]) == ("server_error", "engine_restarting")
        assert "the process was killed" in error["message"]
    assert httpx2.get(f"{url}/v1/models").status_code == 200
    server.process.send_signal(signal.SIGTERM)
    code, out, err = server.end()
    assert (code, out) == (0, "stopped\nloading\nstopped\n")
    assert err == "the engine died: the process was killed; it is being started again\n"


def test_engine_that_cannot_be_started_again_ends_the_server(start) -> None:
    server = start("broken again")
    url = server.ready()
    assert '"code":"engine_dead"' in last_event(stream(url))
    code, _, err = server.end()
    assert code == 1
    assert err.splitlines()[1:] == [
        "error: the engine ended while serving: the process was killed; starting it again failed: the model is broken; take another"
    ]


def test_port_in_use_is_known_before_the_model_is_loaded(start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, out, err = start(port=port).end()
    assert (code, out) == (1, "")
    assert err == (
        f"error: port {port} on 127.0.0.1 is in use; stop what listens there, or choose another with --port\n"
    )


def test_unix_socket(start, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    server = start(uds=str(path))
    assert server.ready() == f"unix:{path}"
    with httpx2.Client(transport=httpx2.HTTPTransport(uds=str(path)), base_url="http://x") as client:
        assert client.get("/health").status_code == 200
    with pytest.raises(DovetailError, match="is in use"):
        bind(ServerSettings(uds=str(path)))
    server.process.send_signal(signal.SIGTERM)
    assert server.end()[0] == 0
    assert not path.exists()


def test_stale_unix_socket_is_replaced(tmp_path: Path) -> None:
    settings = ServerSettings(uds=str(tmp_path / "socket"))
    bind(settings).close()
    close_socket(settings, bind(settings))
    (tmp_path / "socket").write_text("a file of somebody's")
    with pytest.raises(DovetailError, match="is in use"):
        bind(settings)
    assert (tmp_path / "socket").read_text()


def test_addresses_that_cannot_be_used() -> None:
    with pytest.raises(DovetailError, match="has no address"):
        bind(ServerSettings(host="a..b"))
    with pytest.raises(DovetailError, match="--host"):
        bind(ServerSettings(host="192.0.2.1"))


def test_tls_files_are_checked_first(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--ssl-keyfile needs a certificate"):
        check_tls(ServerSettings(ssl_keyfile="x"))
    with pytest.raises(UsageError, match="there is no file"):
        check_tls(ServerSettings(ssl_certfile=str(tmp_path / "none")))
    (tmp_path / "empty").touch()
    with pytest.raises(UsageError, match="cannot be read"):
        check_tls(ServerSettings(ssl_certfile=str(tmp_path / "empty")))


def test_tls_options_are_checked_first(tmp_path: Path) -> None:
    for name in ("cert", "key"):
        (tmp_path / name).touch()
    given = {"ssl_certfile": str(tmp_path / "cert")}
    with pytest.raises(UsageError, match="--ssl-ciphers needs a certificate"):
        check_tls(ServerSettings(ssl_ciphers="ECDHE+AESGCM"))
    with pytest.raises(UsageError, match="--ssl-ciphers: OpenSSL knows no cipher in 'NONSENSE'"):
        check_tls(ServerSettings(ssl_ciphers="NONSENSE", **given))
    with pytest.raises(UsageError, match="--ssl-cert-reqs 2 verifies"):
        check_tls(ServerSettings(ssl_cert_reqs=2, **given))


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, ssl.CERT_NONE),
        ({"ssl_ca_certs": "x"}, ssl.CERT_REQUIRED),
        ({"ssl_ca_certs": "x", "ssl_cert_reqs": 1}, ssl.CERT_OPTIONAL),
        ({"ssl_ca_certs": "x", "ssl_cert_reqs": 0}, ssl.CERT_NONE),
    ],
)
def test_certificates_of_clients(options: dict[str, Any], wanted: ssl.VerifyMode) -> None:
    assert client_certificates(ServerSettings(**options)) is wanted


def test_ciphers_are_those_of_the_connection(tmp_path: Path, start) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    files = {"ssl_keyfile": str(tmp_path / "key"), "ssl_certfile": str(tmp_path / "cert")}
    certificate.private_key_pem.write_to_path(files["ssl_keyfile"])
    certificate.cert_chain_pems[0].write_to_path(files["ssl_certfile"])
    server = start(**files, ssl_ciphers="ECDHE-ECDSA-AES256-GCM-SHA384")
    port = int(server.ready().rpartition(":")[2])
    context = ssl.create_default_context()
    authority.configure_trust(context)
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # the ciphers of 1.3 cannot be chosen
    with (
        socket.create_connection(("127.0.0.1", port)) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        assert secure.cipher()[0] == "ECDHE-ECDSA-AES256-GCM-SHA384"
    context.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
    with socket.create_connection(("127.0.0.1", port)) as plain, pytest.raises(ssl.SSLError):
        context.wrap_socket(plain, server_hostname="localhost")


def test_a_socket_s_path_and_a_port_contradict_each_other(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--uds and --port were given"):
        bind(ServerSettings(uds=str(tmp_path / "socket"), port=8000))


@pytest.mark.parametrize(("soft", "after"), [(100, 400), (400, 400)])
def test_connections_are_as_many_as_the_system_allows(soft: int, after: int) -> None:
    code = (
        "import resource as r; from dovetail.server.http.listen import raise_open_files_limit; "
        f"r.setrlimit(r.RLIMIT_NOFILE, ({soft}, 400)); raise_open_files_limit(); print(r.getrlimit(r.RLIMIT_NOFILE))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == f"({after}, 400)\n", done.stderr
