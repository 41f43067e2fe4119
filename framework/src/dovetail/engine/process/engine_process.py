"""The engine's own process: ``python -m dovetail.engine.process.engine_process ADDRESS``.

It connects to its parent, receives what to run, and steps whenever there is work. Nothing is sent on standard input; it
closes when the parent ends, and then the engine exits.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING

import zmq

from dovetail.api.errors import DovetailError, PluginError, RequestError
from dovetail.engine import messages as m
from dovetail.engine.args import EngineArgs
from dovetail.engine.process.failures import build_failed_message, describe_error
from dovetail.engine.process.ipc import exit_with_parent
from dovetail.kernel.plan import Plan
from dovetail.utils import logs
from dovetail.utils.panics import reraise_control_flow
from dovetail.utils.process_memory import release_free_memory

if TYPE_CHECKING:
    from dovetail.engine.step.core import EngineCore

logger = logging.getLogger("dovetail.engine")

NOT_TAKEN = "the engine could not take this request"
TRIM_MILLISECONDS = 500
"""Once the engine had nothing to do for so long, it returns freed memory to the system: what steps of many sizes leave
behind adds up to hundreds of megabytes.
"""
STALL_MILLISECONDS = 2
"""Seconds between checks of requests that wait for something other than memory, such as a grammar that is being
compiled.
"""


def main() -> int:
    exit_with_parent(sys.argv[1])
    logs.follow_parent()
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 1000)
    socket.connect(sys.argv[1])
    try:
        start = m.decode_to_engine(socket.recv())
        assert isinstance(start, m.Start)
        _run(socket, start)
    except BaseException as error:
        reraise_control_flow(error)
        socket.send(m.encode(build_failed_message(error)))
        return 1 if isinstance(error, DovetailError) else 70
    finally:
        socket.close()
        context.term()
    return 0


def _run(socket: zmq.Socket[bytes], start: m.Start) -> None:
    from dovetail.engine.step.core import EngineCore  # brings torch, so only here
    from dovetail.engine.step.memory import explain_out_of_memory

    plan = Plan.model_validate_json(start.plan)
    args = EngineArgs.model_validate_json(start.args)
    with explain_out_of_memory(plan.model):
        core = EngineCore(plan, args, lambda done, total: socket.send(m.encode(m.Loading(done, total))))
    socket.send(m.encode(core.info))
    sent_stats = core.stats
    trimmed = True
    while True:
        outputs: list[m.TokenOutput] = []
        # With nothing to do, sleep in the first receive; otherwise take what is there and go on.
        wait: int | None = 0
        if core.idle or core.is_sleeping:
            if not trimmed and not socket.poll(TRIM_MILLISECONDS):
                release_free_memory()
                trimmed = True
            wait = None
        elif core.stalled:
            wait = STALL_MILLISECONDS
        while socket.poll(wait):
            wait = 0
            message = m.decode_to_engine(socket.recv())
            match message:
                case m.NewRequest():
                    try:
                        core.add(message)
                    except RequestError as error:
                        outputs += [
                            m.TokenOutput(name, [], "error", None, str(error), is_request_error=True)
                            for name in message.ids
                        ]
                    except PluginError as error:  # what a plugin says is for the operator, not for clients
                        logger.error("the request %s could not be taken: %s", message.id, error)
                        outputs += [m.TokenOutput(name, [], "error", None, NOT_TAKEN) for name in message.ids]
                    except BaseException as error:  # of this request's own data, so it ends this request alone
                        reraise_control_flow(error)
                        logger.error("the request %s could not be taken", message.id, exc_info=error)
                        outputs += [m.TokenOutput(name, [], "error", None, NOT_TAKEN) for name in message.ids]
                case m.Abort():
                    core.abort(message.ids)
                case m.Call():
                    before = core.state
                    answer = _answer(core, message)
                    if core.state != before:
                        socket.send(m.encode(core.state))
                    socket.send(m.encode(answer))
                case m.Stop():
                    return
        outputs += core.step()
        trimmed &= not outputs
        stats = core.stats
        # Without outputs the API's process still learns of what changed: a request that left, say.
        if outputs or stats != sent_stats:
            sent_stats = stats
            socket.send(m.encode(m.StepOutputs(outputs, stats)))


def _answer(core: EngineCore, call: m.Call) -> m.Answer:
    assert call.operation in m.OPERATIONS, f"{call.operation} is no operation of the engine"
    try:
        return m.Answer(call.number, getattr(core, call.operation)(*call.arguments))
    except DovetailError as error:
        return m.Answer(call.number, None, describe_error(error))
    except BaseException as error:
        reraise_control_flow(error)
        if call.operation != "overview":  # the others change the engine, and have left it nobody knows how
            raise
        logger.error("the operation %s failed", call.operation, exc_info=error)
        return m.Answer(call.number, None, describe_error(error))


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # threads that compile a grammar cannot be stopped, and an ordinary exit would wait for them
