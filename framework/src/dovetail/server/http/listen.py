"""The listening socket. It is bound before a model is loaded, so that a port in use is reported at once."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
import ssl
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from dovetail.api.errors import DovetailError, UsageError
from dovetail.server.settings import ServerSettings

MAX_OPEN_FILES = 65_536
"""And other open files: more than one process serves."""

BACKLOG = 2048
"""Maximum number of connections that wait to be accepted."""


def bind(settings: ServerSettings) -> socket.socket:
    """Bind the socket without listening. Until the model is ready, connections are refused instead of waiting.

    Raises:
        UsageError: both a unix socket's path and a host or port are given.
        DovetailError: the address is in use, or cannot be used.
    """
    if settings.uds and (other := {"host", "port"} & settings.model_fields_set):
        raise UsageError(f"--uds and --{' and --'.join(sorted(other))} were given", "listen on one of the two")
    return _bind_unix(settings.uds) if settings.uds else _bind_tcp(settings.host, settings.port)


class ListenSockets:
    """The listening sockets of several API processes.

    On Linux each process has its own TCP socket on the same port (SO_REUSEPORT), and the kernel spreads connections
    over them. Elsewhere, and with unix sockets, all processes share one socket.

    Args:
        sock: from :func:`bind`.
    """

    def __init__(self, settings: ServerSettings, sock: socket.socket) -> None:
        self.address = server_url(settings, sock)
        self._settings = settings
        self._sock = sock
        self._bound_address = sock.getsockname()
        self._reuse_port = not settings.uds and sys.platform.startswith("linux")
        self._claimed = False

    @contextlib.contextmanager
    def open_for(self, number: int) -> Iterator[int]:
        """Context manager: the file descriptor for a process that is started inside it.

        Afterwards only that process holds its socket, so that no connection waits for it after it has died.

        Args:
            number: of the process, from 1.

        Raises:
            DovetailError: another server has taken the address, which is only possible if no process is left.
        """
        if not self._reuse_port or (number == 1 and not self._claimed):
            yield self._sock.fileno()
            return
        with socket.socket(self._sock.family, self._sock.type, self._sock.proto) as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            with self._translate_in_use():
                other.bind(self._bound_address)
            yield other.fileno()

    def claim(self) -> None:
        """Listen on the first process's socket before any process starts. A server without SO_REUSEPORT on the port is
        detected this way.

        Raises:
            DovetailError: another server listens on the address.
        """
        if not self._reuse_port:
            return
        with self._translate_in_use():
            self._sock.listen(BACKLOG)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._claimed = True
        self._sock.close()

    @contextlib.contextmanager
    def _translate_in_use(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise address_in_use_error(self._settings) if error.errno == errno.EADDRINUSE else error from None

    def close(self) -> None:
        """Close the sockets here. The processes keep their own copies."""
        self._sock.close()


def server_url(settings: ServerSettings, sock: socket.socket) -> str:
    """The URL of the server."""
    if settings.uds:
        return f"unix:{settings.uds}"
    host, port = sock.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    return f"{'https' if settings.ssl_certfile else 'http'}://{shown}:{port}{settings.root_path.rstrip('/')}"


def startup_message(settings: ServerSettings, model: str, address: str) -> str:
    """The message that is logged once the server accepts connections."""
    return f"Dovetail serves {', '.join(settings.model_names(model))} at {address} (Ctrl+C stops it)"


def close_socket(settings: ServerSettings, sock: socket.socket) -> None:
    """Close the socket, and remove the file of a unix socket."""
    sock.close()
    if settings.uds:
        with contextlib.suppress(OSError):
            os.unlink(settings.uds)


def address_in_use_error(settings: ServerSettings) -> DovetailError:
    """The error for an address that is in use."""
    if settings.uds:
        return DovetailError(
            f"the socket {settings.uds} is in use", "stop what listens there, or choose another with --uds"
        )
    return DovetailError(
        f"port {settings.port} on {settings.host} is in use",
        "stop what listens there, or choose another with --port",
    )


def _bind_tcp(host: str, port: int) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise DovetailError(
            f"the host {host} has no address on this machine", "choose another with --host, such as 127.0.0.1"
        ) from None
    family, kind, protocol, _, where = found[0]
    sock = socket.socket(family, kind, protocol)
    # A port of a server that has just ended is free to be taken again.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(where)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise address_in_use_error(ServerSettings(host=host, port=port)) from None
        if error.errno == errno.EACCES:
            raise DovetailError(
                f"this user may not listen on port {port}", "choose one above 1023 with --port"
            ) from None
        hint = "choose another address with --host"
        raise DovetailError(f"cannot listen on {host}: {error.strerror}", hint) from None
    return sock


def _bind_unix(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if _is_stale(path):
            os.unlink(path)
        sock.bind(path)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise address_in_use_error(ServerSettings(uds=path)) from None
        reason = error.strerror or str(error)
        raise DovetailError(f"cannot listen on {path}: {reason}", "choose another path with --uds") from None
    return sock


def _is_stale(path: str) -> bool:
    """Whether a socket file was left behind by a process that has ended."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return False
    except FileNotFoundError:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(path) == errno.ECONNREFUSED


def raise_open_files_limit() -> None:
    """Raise this process's limit of open files to the hard limit; shells set it far lower by default."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # some systems say that there is no limit, and have one
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def client_certificates(settings: ServerSettings) -> ssl.VerifyMode:
    """Whether clients have to show a certificate."""
    if settings.ssl_cert_reqs is None:
        return ssl.CERT_REQUIRED if settings.ssl_ca_certs else ssl.CERT_NONE
    return ssl.VerifyMode(settings.ssl_cert_reqs)


def check_tls(settings: ServerSettings) -> None:
    """Read the TLS files.

    Raises:
        UsageError: a file is missing, or is not valid.
    """
    if settings.ssl_certfile is None:
        options = ("ssl_keyfile", "ssl_ca_certs", "ssl_cert_reqs", "ssl_ciphers")
        alone = [name for name in options if getattr(settings, name)]
        if alone:
            flag = alone[0].replace("_", "-")
            raise UsageError(f"--{flag} needs a certificate", "give it with --ssl-certfile")
        return
    for name in ("ssl_certfile", "ssl_keyfile", "ssl_ca_certs"):
        file = getattr(settings, name)
        if file is not None and not Path(file).is_file():
            raise UsageError(f"--{name.replace('_', '-')}: there is no file {file}", "correct the path")
    if settings.ssl_cert_reqs and not settings.ssl_ca_certs:
        raise UsageError(
            f"--ssl-cert-reqs {settings.ssl_cert_reqs} verifies clients' certificates, and nothing says by whom they are signed",
            "give the authorities with --ssl-ca-certs",
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if settings.ssl_ciphers is not None:
        try:
            context.set_ciphers(settings.ssl_ciphers)
        except ssl.SSLError:
            raise UsageError(
                f"--ssl-ciphers: OpenSSL knows no cipher in {settings.ssl_ciphers!r}",
                "write them as OpenSSL does, such as ECDHE+AESGCM:!aNULL",
            ) from None
    try:
        context.load_cert_chain(settings.ssl_certfile, settings.ssl_keyfile)
        if settings.ssl_ca_certs:
            context.load_verify_locations(settings.ssl_ca_certs)
    except (ssl.SSLError, OSError) as error:
        raise UsageError(
            f"the files for TLS cannot be read: {error}", "give a certificate and its key as PEM"
        ) from None
