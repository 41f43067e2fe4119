"""How one part is selected: the candidate that the user named, or else the highest-ranked one that fits. The reason
is recorded for every candidate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from dovetail.api.cards import Card
from dovetail.api.errors import ConflictError, ResolutionError
from dovetail.kernel.blame import blame, describe_error, describe_type
from dovetail.kernel.discovery import import_dotted, import_part
from dovetail.kernel.interrupts import is_interrupt
from dovetail.kernel.options import AUTO
from dovetail.kernel.plan_parts import Choice, Part, RejectedCandidate
from dovetail.kernel.registry import Offer, Registry
from dovetail.kernel.streams import keep_streams
from dovetail.kernel.waiting import wait_for

C = TypeVar("C", bound=Card)

BROKEN_PROBE = "its probe failed"
"""The beginning of an objection that is a fault of the plugin, and not of the machine."""


def call_target(offer: Offer[Any], dotted: str, doing: str, *arguments: Any, **options: Any) -> Any:
    """Call a function that a card names.

    Args:
        doing: what it is called for, as for :func:`~dovetail.kernel.blame.blame`.

    Raises:
        PluginError: it raised something other than one of our errors for users.
    """
    function = import_part(offer, dotted)
    with blame(offer, doing):
        return function(*arguments, **options)


def make_part(offer: Offer[Any]) -> Part:
    return Part(
        kind=offer.card.kind,
        name=offer.name,
        distribution=offer.distribution,
        version=offer.version,
        target=offer.card.target,
        rank=offer.card.rank,
    )


def choose(
    role: str,
    card: type[C],
    registry: Registry,
    objection: Callable[[C], str | None],
    *,
    explicit: str | None = None,
    wanted: str,
    warnings: list[str],
    broken: Mapping[str, str] | None = None,
) -> tuple[Offer[C], Choice]:
    """Select the candidate that the user named, or the highest-ranked one without an objection.

    Args:
        objection: returns why a card does not fit, or None. If the user named a candidate, it is called only on that
            one.
        wanted: what is needed, for the error message.
        broken: candidates that have failed in this command, by name, with the reason. They are taken only by name.

    Raises:
        ConflictError: two distributions offer the named candidate.
        ResolutionError: nothing fits, or the named candidate does not; every objection is cited.
    """
    offers = registry.offers(card)
    if explicit is not None and explicit != AUTO:
        offer = registry.get(card, explicit)
        if offer is None:
            if conflict := registry.conflict(card, explicit):
                raise ConflictError(f"{conflict}, so neither is used", conflict.hint)
            known = ", ".join(o.name for o in offers) or "none"
            hint = registry.explain_missing(card.kind) or "install the plugin that offers it, or choose one of those"
            raise ResolutionError(f"wanted the {role} {explicit!r}, found {known}", hint)
        if reason := _find_objection(offer, objection):
            others = ", ".join(o.name for o in offers if o is not offer)
            raise ResolutionError(
                f"the {role} {explicit!r} was asked for but does not fit: {reason}",
                f"leave the choice to auto{f' or take another of {others}' if others else ''}",
            )
        return offer, Choice(role=role, part=make_part(offer), reason="asked for by name")

    fitting: list[Offer[C]] = []
    rejected: list[RejectedCandidate] = []
    for offer in offers:
        if reason := (broken or {}).get(offer.name) or _find_objection(offer, objection):
            rejected.append(RejectedCandidate(name=offer.name, distribution=offer.distribution, reason=reason))
        else:
            fitting.append(offer)
    if not fitting:
        tried = "; ".join(f"{r.name}: {r.reason}" for r in rejected) or f"no {role} is installed"
        hint = (
            registry.explain_missing(card.kind)
            or "install a plugin that covers it (dovetail plugins list shows what is there)"
        )
        raise ResolutionError(f"wanted {wanted}, found nothing that fits ({tried})", hint)
    winner = fitting[0]
    ties = [o for o in fitting[1:] if o.card.rank == winner.card.rank]
    if ties:
        warnings.append(
            f"{winner} and {' and '.join(map(str, ties))} fit equally well; {winner.name} is taken by name, name one explicitly to be sure"
        )
    rejected += [
        RejectedCandidate(
            name=o.name,
            distribution=o.distribution,
            reason=f"fits, rank {o.card.rank} is {'equal, later by name' if o in ties else 'lower'}",
        )
        for o in fitting[1:]
    ]
    why = f"rank {winner.card.rank}" + (
        f", highest of {len(fitting)} that fit" if len(fitting) > 1 else ", the only one that fits"
    )
    return winner, Choice(role=role, part=make_part(winner), reason=why, rejected=tuple(rejected))


def _find_objection(offer: Offer[C], objection: Callable[[C], str | None]) -> str | None:
    with wait_for(offer, "its probe"):  # the rest of an objection compares cards
        reason = objection(offer.card)
    if reason is not None and reason.startswith(BROKEN_PROBE):
        return f"{reason}, a fault of {offer.distribution} {offer.version}"
    return reason


def run_probe(probe: str | None, *arguments: Any) -> str | None:
    """Run a probe with its arguments. Returns its objection. Where it fails, or answers with anything but a reason or
    None, that is the objection, and the resolution goes on. An empty text is no reason.
    """
    if probe is None:
        return None
    try:
        function = import_dotted(probe)
        with keep_streams():
            answer = function(*arguments)
    except BaseException as error:
        if is_interrupt(error):
            raise
        return f"{BROKEN_PROBE} ({describe_error(error)})"
    if answer is None or (isinstance(answer, str) and answer.strip()):
        return answer
    return f"{BROKEN_PROBE} (it answered with {describe_type(answer)}, wanted a text or None)"


def join_numbers(values: Iterable[int]) -> str:
    return ", ".join(map(str, values))


def supports_device(devices: Sequence[str], device: str) -> bool:
    return device in devices or "*" in devices
