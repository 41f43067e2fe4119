"""Messages between the hub of a server and its API processes: the engine's messages, and a few more."""

from __future__ import annotations

from typing import Any

import msgspec

from dovetail.engine import messages as m


class WorkerSetup(msgspec.Struct):
    """The setup that an API process reads from standard input before it connects. It is not on the command line because
    it holds API keys.

    Attributes:
        address: of the hub's socket.
        token: the secret name under which the process connects.
        number: of the process, from 1; a replacement has the same. It is its row of the counters, too.
        settings, plan, args: JSON of their pydantic models.
        socket, counters: file descriptors that it inherits.
        created: when the server started, in seconds since 1970.
        store: the database file of stored responses.
    """

    address: str
    token: bytes
    number: int
    settings: str
    plan: str
    args: str
    socket: int
    counters: int
    created: int
    store: str


class Register(m.Message):
    """To the hub, first message: the sender is ready to receive."""


class Listening(m.Message):
    """To the hub: connections are accepted."""


class StateAck(m.Message):
    """To the hub: a :class:`~dovetail.engine.messages.State` was received and applied."""


class EngineLost(m.Message):
    """From the hub: there is no engine. If it restarts, another :class:`~dovetail.engine.messages.EngineInfo` follows."""

    reason: str
    restarting: bool


class Shutdown(m.Message):
    """From the hub, in place of a signal. The first lets open requests finish, the second ends them."""


ToHub = m.ToEngine | Register | Listening | StateAck | m.Failed
FromHub = m.FromEngine | EngineLost | Shutdown

_to_hub: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(ToHub)
_from_hub: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(FromHub)


def decode_to_hub(frame: bytes) -> ToHub:
    message: ToHub = _to_hub.decode(frame)
    return message


def decode_from_hub(frame: bytes) -> FromHub:
    message: FromHub = _from_hub.decode(frame)
    return message
