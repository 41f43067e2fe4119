"""Structured output in the engine: background threads compile grammars and compute masks.

V: size of the logits' vocabulary.
"""

from __future__ import annotations

import contextlib
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cached_property

import numpy as np

from dovetail.api.errors import DovetailError, RequestError
from dovetail.api.grammar import GrammarBackend, GrammarSource, GrammarState
from dovetail.engine.grammars.cache import MAX_BYTES, CacheEntry, Compiled, GrammarCache
from dovetail.engine.grammars.check_child import BACKEND_FAILED
from dovetail.engine.grammars.checks import PARAM, build_grammar_source
from dovetail.engine.grammars.mask_threads import MASK_SECONDS, MaskThreads
from dovetail.engine.request.params import StructuredOutputs
from dovetail.kernel.blame import accuse
from dovetail.kernel.plan_parts import Part
from dovetail.utils import logs
from dovetail.utils.panics import reraise_control_flow
from dovetail.utils.process_memory import release_free_memory, resident_bytes

ROOM_POLL_S = 0.02
"""Seconds between two looks whether grammars in use have left room for another one."""
SLOW_S = 0.05
"""What takes longer to compile takes much memory meanwhile, which is then given back."""


class GrammarManager:
    """The grammars of all requests.

    Threads and backend are created with the first request that needs a grammar; until then this costs nothing.

    Args:
        load_backend: makes the backend of the Plan. Called once, in a thread that compiles.
        vocab_size: V.
        eos_ids: the backend's end-of-sequence tokens.
        threads: number of threads that compute masks. Backends release the GIL meanwhile.
        max_bytes: most memory for compiled grammars.
        mask_seconds: most time for the masks of one sequence; see :class:`MaskThreads`.
        part: the backend's, for the log.
    """

    def __init__(
        self,
        load_backend: Callable[[], GrammarBackend],
        vocab_size: int,
        eos_ids: Sequence[int],
        threads: int = 2,
        max_bytes: int = MAX_BYTES,
        mask_seconds: float = MASK_SECONDS,
        part: Part | None = None,
    ) -> None:
        self._load_backend = load_backend
        self.part = part
        self._loading = threading.Lock()
        self._backend: GrammarBackend | None = None
        self._newest: tuple[StructuredOutputs, GrammarSource] | None = None
        self.cache = GrammarCache(max_bytes)
        self._threads, self._mask_seconds = threads, mask_seconds
        self._stopping = threading.Event()
        self.mask_words = -(-vocab_size // 32)
        flags = np.zeros(self.mask_words * 32, dtype=np.uint8)
        flags[[i for i in eos_ids if 0 <= i < vocab_size]] = 1
        self._non_end_mask = ~np.packbits(flags, bitorder="little").view("<i4").astype(np.int32)
        """A mask of all tokens except the end tokens."""

    @cached_property
    def mask_threads(self) -> MaskThreads:
        """Not the thread that compiles, so that running sequences do not wait for new ones."""
        return MaskThreads(self._threads, self._mask_seconds)

    @cached_property
    def _compile_pool(self) -> ThreadPoolExecutor:
        """Compiles, and drops what was compiled. One thread: what a grammar takes is measured, and the memory that another
        one frees meanwhile would be missing.
        """
        return ThreadPoolExecutor(1, thread_name_prefix="grammar-compile")

    def compile(self, params: StructuredOutputs) -> RequestGrammar:
        """Start compiling in a thread, or reuse a cached grammar. Does not block.

        Raises:
            RequestError: masks that take too long are still being computed.
        """
        if "mask_threads" in self.__dict__ and self.mask_threads.overrun:
            raise RequestError(
                "grammars that take too long for a token are still being computed", "try again later", param=PARAM
            )
        if self._newest is None or self._newest[0] is not params:  # sequences of one request follow each other
            self._newest = params, build_grammar_source(params)
        entry, new = self.cache.use(self._newest[1])
        grammar = RequestGrammar(self, entry)
        weakref.finalize(grammar, self._release, entry).atexit = False
        if new:
            self._compile_pool.submit(self._compile, entry)
        return grammar

    def allows_only_end(self, mask: np.ndarray) -> bool:
        """Whether a mask (int32 ``[ceil(V / 32)]``) allows only end tokens, so that forbidding them would leave no
        token.
        """
        return not np.any(mask & self._non_end_mask)

    def shutdown(self) -> None:
        """Stop the threads, and wait for running work."""
        self._stopping.set()
        if "_compile_pool" in self.__dict__:
            self._compile_pool.shutdown(cancel_futures=True)
        if "mask_threads" in self.__dict__:
            self.mask_threads.shutdown()

    def allow_all_mask(self) -> np.ndarray:
        return np.full(self.mask_words, -1, dtype=np.int32)

    def _release(self, entry: CacheEntry) -> None:
        """Runs when a sequence is gone, in whichever thread dropped it."""
        entry.release()
        if not entry.users and not self._stopping.is_set():
            # It frees what it drops, which takes time. No thread starts when the interpreter is about to end.
            with contextlib.suppress(RuntimeError):
                self._compile_pool.submit(self.cache.shrink)

    def _compile(self, entry: CacheEntry) -> None:
        # Those who asked for it may have left.
        while not self.cache.drop(entry, only_unused=True):
            if self.cache.shrink() or self._stopping.wait(ROOM_POLL_S):
                break
        else:
            entry.compiled.cancel()
            return
        before, started = resident_bytes(), time.monotonic()
        try:
            compiled = self._build(entry.source)
            entry.measured_bytes = max(resident_bytes() - before, 0)
        except BaseException as error:  # a panic of an extension module is no Exception; this thread has no other
            self.cache.drop(entry)
            traceback.clear_frames(error.__traceback__)  # which hold what was compiled so far
            entry.compiled.set_exception(error)
        else:
            entry.compiled.set_result(compiled)
        self.cache.shrink()
        if time.monotonic() - started > SLOW_S:
            release_free_memory()

    def _build(self, source: GrammarSource) -> Compiled:
        with self._loading:
            if self._backend is None:
                self._backend = self._load_backend()
        grammar = self._backend.compile(source)
        mask = self.allow_all_mask()
        first = self.mask_threads.submit(lambda: grammar.start().fill_mask(mask))
        self.mask_threads.join(first)
        first.result()
        return Compiled(grammar, mask)


class RequestGrammar:
    """The grammar state of one sequence.

    It belongs to the request and survives preemption. Its methods are only called by the engine's thread; between the
    calls another thread uses the state.
    """

    def __init__(self, manager: GrammarManager, entry: CacheEntry) -> None:
        self._manager = manager
        self._entry = entry
        self._compiled = entry.compiled
        self._lock = threading.Lock()
        """Protects the state and the masks."""
        self._state: GrammarState | None = None
        """Made for the first token: sequences that wait need only the grammar's first mask."""
        self._masks: dict[tuple[int, ...], np.ndarray] = {}
        """Tokens after the accepted ones → the mask at that position."""
        self._pending_fills: list[Future[None]] = []
        self._failure: DovetailError | None = None

    @property
    def ready(self) -> bool:
        """Whether compilation has ended, in success or :attr:`failure`. Until then the request waits."""
        return self._compiled.done()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until :attr:`ready`, or until the time is up. Returns :attr:`ready`."""
        return bool(wait([self._compiled], timeout).done)

    @property
    def failure(self) -> DovetailError | None:
        """Why the request cannot continue: the grammar did not compile, or it exceeded the backend's limits later.

        After a failure :meth:`masks` allows every token and :meth:`accept` rejects every token; the engine ends the
        request with this reason.
        """
        if self._failure is None and self.ready and (error := self._compiled.exception()) is not None:
            self._fail(error)
        return self._failure

    def accept(self, tokens: Sequence[int]) -> bool:
        """Advance by output tokens, and start to compute the next mask.

        Returns:
            Whether the grammar allows them. If not, the state is unchanged.
        """
        if self._advance(tokens, keep=True) < len(tokens):
            return False
        self.prefetch([])
        return True

    def prefetch(self, draft: Sequence[int]) -> None:
        """Start to compute the masks that :meth:`masks` will need."""
        if self.failure is None and not self._has_masks(draft):
            self._pending_fills.append(self._manager.mask_threads.submit(self._fill_masks, tuple(draft)))

    def valid_prefix(self, draft: Sequence[int]) -> int:
        """The number of leading tokens that the grammar allows."""
        return self._advance(draft, keep=False)

    def masks(self, draft: Sequence[int]) -> list[np.ndarray]:
        """The masks after the tokens so far, and after each token of the draft.

        Returns:
            ``len(draft) + 1`` masks, int32 ``[ceil(V / 32)]``, read-only. After a draft token that is not allowed, the
                mask allows everything, because what is sampled there is dropped.
        """
        self._join_pending_fills(cancel=False)
        if self.failure is None and not self._has_masks(draft):
            self.prefetch(draft)
            self._join_pending_fills(cancel=False)
        if self.failure is not None:
            return [self._manager.allow_all_mask()] * (len(draft) + 1)
        return [self._masks[key] for key in _prefixes(draft)]

    def _advance(self, tokens: Sequence[int], keep: bool) -> int:
        """The number of leading tokens that the grammar allows. The state advances if all are allowed and ``keep`` is
        set.
        """
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
            except BaseException as error:  # a panic of an extension module is no Exception
                reraise_control_flow(error)
                self._fail(error)
                return 0
        return count

    def _join_pending_fills(self, *, cancel: bool = True) -> None:
        """Wait for the mask computations of this sequence, so that no thread uses its state. If they take too long, the
        request fails, and its state is not used again.

        Args:
            cancel: drop those that have not begun.
        """
        wait([self._compiled])
        for future in self._pending_fills:
            if cancel and future.cancel():
                continue
            try:
                self._manager.mask_threads.join(future)
            except RequestError as error:
                self._fail(error)
                break
            future.result()
        self._pending_fills.clear()

    def _get_state(self) -> GrammarState:
        if self._state is None:
            self._state = self._compiled.result().grammar.start()
        return self._state

    def _fail(self, error: BaseException) -> None:
        """End with an error. The grammar is forgotten: its sequences share automata, which may have reached their limit
        for all of them.
        """
        self._failure = _as_failure(error)
        if not isinstance(error, RequestError):
            part = self._manager.part
            logs.report_fault(error if part is None else accuse(error, part, "to compile or follow a grammar"))
        self._manager.cache.drop(self._entry)

    def _has_masks(self, draft: Sequence[int]) -> bool:
        if self._state is None and self.ready:
            self._masks.setdefault((), self._compiled.result().first_mask)
        return tuple(draft) in self._masks and all(key in self._masks for key in _prefixes(draft))

    def _fill_masks(self, draft: tuple[int, ...]) -> None:
        """Compute the masks after each token of the draft, then restore the state."""
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
                        mask = self._manager.allow_all_mask()
                        if allowed:
                            state.fill_mask(mask)
                        self._masks[key] = mask
                state.rollback(count)
            except BaseException as error:  # in a thread where nobody would see it
                reraise_control_flow(error)
                self._fail(error)


def _prefixes(draft: Sequence[int]) -> list[tuple[int, ...]]:
    return [tuple(draft[:i]) for i in range(len(draft) + 1)]


def _as_failure(error: BaseException) -> DovetailError:
    """What the request is told. What a plugin raised is for the log alone."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, DovetailError):
        return DovetailError("the grammar backend cannot be used", "the server's log says why")
    return RequestError(*BACKEND_FAILED, param=PARAM)
