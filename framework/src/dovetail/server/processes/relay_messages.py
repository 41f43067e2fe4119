"""What travels between the hub of a server of several API processes and these: the engine's own messages, and a few more."""

from __future__ import annotations

from typing import Any

import msgspec

from dovetail.engine import messages as m


class WorkerSetup(msgspec.Struct):
    """All that an API process is told before it connects, over its standard input, since keys are among it.

    Attributes:
        address: of the hub's socket.
        token: the name to connect under, which nobody else can know.
        number: of the process, from 1; its successor has the same. It is its row of the counters, too.
        settings, plan, args: JSON of their pydantic models.
        socket, counters: file descriptors that it inherits.
        created: when the server began, in seconds since 1970.
        store: the file of the responses that are kept.
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
    """To the hub, first: whoever sent this takes messages."""


class Listening(m.Message):
    """To the hub: connections are accepted."""


class StateAck(m.Message):
    """To the hub: a :class:`~dovetail.engine.messages.State` was taken in."""


class EngineLost(m.Message):
    """From the hub: there is no engine. If it is restarting, another :class:`~dovetail.engine.messages.EngineInfo` follows."""

    reason: str
    restarting: bool


class Shutdown(m.Message):
    """From the hub: what a signal is to a server of one process. The first lets requests end, the second does not."""


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
