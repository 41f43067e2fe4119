"""Structured output in the engine: grammars are compiled, and masks computed, in threads beside the engine's own.

V: size of the logits' vocabulary.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cached_property

import numpy as np

from dovetail.api.errors import DovetailError, RequestError
from dovetail.api.grammar import Grammar, GrammarBackend, GrammarSource, GrammarState
from dovetail.engine.grammars.checks import PARAM, build_grammar_source
from dovetail.engine.request.params import StructuredOutputs

CACHED_GRAMMARS = 128
"""Compiled grammars that are kept for the next request that asks for the same."""


class GrammarManager:
    """The grammars of all requests.

    Threads and backend come into being with the first request that asks for a form; until then this costs nothing.

    Args:
        load_backend: makes the backend of the Plan. Called once, in a thread of the pool.
        vocab_size: V.
        eos_ids: tokens that end an output, as the backend has them.
        threads: that compile, and compute masks. Backends let go of the interpreter meanwhile.
    """

    def __init__(
        self, load_backend: Callable[[], GrammarBackend], vocab_size: int, eos_ids: Sequence[int], threads: int = 2
    ) -> None:
        self._load_backend = load_backend
        self._loading = threading.Lock()
        self._backend: GrammarBackend | None = None
        self._cache: OrderedDict[GrammarSource, Future[Grammar]] = OrderedDict()
        self._threads = threads
        self.mask_words = -(-vocab_size // 32)
        flags = np.zeros(self.mask_words * 32, dtype=np.uint8)
        flags[[i for i in eos_ids if 0 <= i < vocab_size]] = 1
        self._non_end_mask = ~np.packbits(flags, bitorder="little").view("<i4").astype(np.int32)
        """All but the end tokens, as a mask."""

    @cached_property
    def pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._threads, thread_name_prefix="grammar")

    def compile(self, params: StructuredOutputs) -> RequestGrammar:
        """Begin to compile, or take what was compiled before; returns at once."""
        source = build_grammar_source(params)
        compiled = self._cache.get(source)
        if compiled is None or (compiled.done() and compiled.exception() is not None):
            compiled = self._cache[source] = self.pool.submit(self._compile, source)
            while len(self._cache) > CACHED_GRAMMARS:
                self._cache.popitem(last=False)
        self._cache.move_to_end(source)
        return RequestGrammar(self, compiled)

    def allows_only_end(self, mask: np.ndarray) -> bool:
        """Whether a mask (int32 ``[ceil(V / 32)]``) allows nothing but end tokens, so that forbidding them would leave none."""
        return not np.any(mask & self._non_end_mask)

    def shutdown(self) -> None:
        """End the threads; what is running is waited for."""
        if "pool" in self.__dict__:
            self.pool.shutdown(cancel_futures=True)

    def _compile(self, source: GrammarSource) -> Grammar:
        with self._loading:
            if self._backend is None:
                self._backend = self._load_backend()
        return self._backend.compile(source)


class RequestGrammar:
    """Where one sequence stands in its grammar.

    It belongs to the request and outlives preemption. Its methods are called by the engine's thread alone; a thread of the pool uses the state
    between them.
    """

    def __init__(self, manager: GrammarManager, compiled: Future[Grammar]) -> None:
        self._manager = manager
        self._compiled = compiled
        self._lock = threading.Lock()
        """Held by whoever uses the state or the masks."""
        self._state: GrammarState | None = None
        self._masks: dict[tuple[int, ...], np.ndarray] = {}
        """Tokens after those that were accepted → the mask at that place."""
        self._pending_fills: list[Future[None]] = []
        self._failure: RequestError | None = None
        if compiled.done():
            self.prefetch([])
        else:
            compiled.add_done_callback(self._on_compiled)

    @property
    def ready(self) -> bool:
        """Whether compiling came to an end, in success or :attr:`failure`; until then the request waits."""
        return self._compiled.done()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until :attr:`ready`, or for so many seconds; whether it is."""
        return bool(wait([self._compiled], timeout).done)

    @property
    def failure(self) -> RequestError | None:
        """Why the request cannot go on: its form did not compile, or has grown beyond the backend's limits since.

        From then on nothing is refused by :meth:`masks`, and everything by :meth:`accept`; the engine ends the request with this reason.
        """
        if self._failure is None and self.ready and (error := self._compiled.exception()) is not None:
            self._failure = _as_request_error(error)
        return self._failure

    def accept(self, tokens: Sequence[int]) -> bool:
        """Go on by tokens that were kept for the output, and begin to compute the next mask.

        Returns:
            Whether the grammar allows them; if not, nothing changes.
        """
        if self._advance(tokens, keep=True) < len(tokens):
            return False
        self.prefetch([])
        return True

    def prefetch(self, draft: Sequence[int]) -> None:
        """Begin to compute what :meth:`masks` will be asked for."""
        if self.failure is None and not self._has_masks(draft):
            self._pending_fills.append(self._manager.pool.submit(self._fill_masks, tuple(draft)))

    def valid_prefix(self, draft: Sequence[int]) -> int:
        """How many of these tokens the grammar allows in a row."""
        return self._advance(draft, keep=False)

    def masks(self, draft: Sequence[int]) -> list[np.ndarray]:
        """What may follow the tokens so far, and each token of the draft after them.

        Returns:
            ``len(draft) + 1`` masks, int32 ``[ceil(V / 32)]``, not to be written to. After a token that is not allowed itself everything is: whatever is
            drawn there will be dropped.
        """
        self._join_pending_fills()
        if self.failure is None and not self._has_masks(draft):
            self._fill_masks(tuple(draft))
        if self.failure is not None:
            return [self._allow_all_mask()] * (len(draft) + 1)
        return [self._masks[key] for key in _prefixes(draft)]

    def _advance(self, tokens: Sequence[int], keep: bool) -> int:
        """How many of the tokens the grammar allows in a row; the state goes on by them if all are, and if it is to."""
        self._join_pending_fills()
        if self.failure is not None:
            return 0
        count = 0
        with self._lock:
            try:
                state = self._get_state()
                while count < len(tokens) and state.accept(tokens[count]):
                    count += 1
                if keep and count == len(tokens):
                    # What was computed for a draft holds for the part of it that came true.
                    done = tuple(tokens)
                    self._masks = {key[count:]: mask for key, mask in self._masks.items() if key[:count] == done}
                else:
                    state.rollback(count)
            except Exception as error:
                self._failure = _as_request_error(error)
                return 0
        return count

    def _on_compiled(self, compiled: Future[Grammar]) -> None:
        """In the thread that compiled: the first mask is there before the engine asks for it."""
        if not compiled.cancelled() and compiled.exception() is None:
            self._fill_masks(())

    def _join_pending_fills(self) -> None:
        """Have no thread of the pool at work on this sequence. What it has not begun is done by the caller, who needs it now."""
        wait([self._compiled])
        for future in self._pending_fills:
            if not future.cancel():
                future.result()
        self._pending_fills.clear()

    def _get_state(self) -> GrammarState:
        if self._state is None:
            self._state = self._compiled.result().start()
        return self._state

    def _has_masks(self, draft: Sequence[int]) -> bool:
        return tuple(draft) in self._masks and all(key in self._masks for key in _prefixes(draft))

    def _allow_all_mask(self) -> np.ndarray:
        return np.full(self._manager.mask_words, -1, dtype=np.int32)

    def _fill_masks(self, draft: tuple[int, ...]) -> None:
        """Compute the masks after each token of the draft, and come back to where it stood."""
        with self._lock:
            try:
                state = self._get_state()
                count = 0
                allowed = True
                for key in _prefixes(draft):
                    if key and allowed:
                        allowed = state.accept(key[-1])
                        count += allowed
                    if key not in self._masks:
                        mask = self._allow_all_mask()
                        if allowed:
                            state.fill_mask(mask)
                        self._masks[key] = mask
                state.rollback(count)
            except Exception as error:  # most often in a thread of the pool, where nobody would see it
                self._failure = _as_request_error(error)


def _prefixes(draft: Sequence[int]) -> list[tuple[int, ...]]:
    return [tuple(draft[:i]) for i in range(len(draft) + 1)]


def _as_request_error(error: BaseException) -> RequestError:
    """An error of the backend's, for the one request that it concerns."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, DovetailError):
        return RequestError(error.problem, error.hint, param=PARAM)
    return RequestError(
        f"the grammar backend failed ({type(error).__name__}: {error})", "report it to its authors", param=PARAM
    )
