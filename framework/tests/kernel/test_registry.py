"""Who wins when several distributions offer one name, and what a card may be."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from dovetail.api import LoaderCard, ModelCard, NamingCard, QuantFormatCard, UsageError
from dovetail.kernel.discovery import Plugin
from dovetail.kernel.registry import Registry

from .fakes import Site, format_, kernel, loader, model, offering, plugin

TWO = (plugin("alpha", model("walnut")), plugin("Beta_Pack", model("walnut"), model("oak")))


def test_offers_come_by_rank_and_then_by_name() -> None:
    registry = Registry([plugin("a", model("b"), model("c", rank=90)), plugin("z", model("a"), loader("l"))])
    assert [o.name for o in registry.offers(ModelCard)] == ["c", "a", "b"]
    assert [str(o) for o in registry.offers(LoaderCard)] == ["loader l (z 1.0)"]
    assert registry.offers(QuantFormatCard) == []


def test_one_name_for_two_kinds_is_no_conflict() -> None:
    registry = Registry([plugin("a", format_("gguf")), plugin("b", loader("gguf")), plugin("c", kernel("gguf"))])
    assert registry.conflicts == []


@pytest.mark.parametrize("plugins", [TWO, TWO[::-1]])
def test_a_conflict_disables_the_name_and_cites_both(plugins: tuple[Plugin, ...]) -> None:
    registry = Registry(plugins)
    assert [o.name for o in registry.offers(ModelCard)] == ["oak"]
    assert registry.get(ModelCard, "walnut") is None
    (conflict,) = registry.conflicts
    assert conflict is registry.conflict(ModelCard, "walnut")
    assert str(conflict) == "model 'walnut' is offered by Beta_Pack 1.0 and alpha 1.0"
    assert conflict.hint == "uninstall one, or choose with --prefer model:walnut=Beta_Pack"


@pytest.mark.parametrize("name", ["Beta_Pack", "beta-pack", "BETA.PACK", "beta__pack"])
def test_a_preference_settles_it_however_the_distribution_is_spelled(name: str) -> None:
    registry = Registry(TWO, [f"model:walnut={name}"])
    assert registry.conflicts == []
    offer = registry.get(ModelCard, "walnut")
    assert offer is not None
    assert offer.distribution == "Beta_Pack"


def test_following_the_hint_settles_it() -> None:
    text = Registry(TWO).conflicts[0].hint.split()[-1]
    assert not Registry(TWO, [text]).conflicts


def test_a_preference_among_three_and_for_what_is_no_conflict() -> None:
    plugins = [plugin(name, model("walnut")) for name in "abc"]
    assert not Registry(plugins, ["model:walnut=b"]).conflicts
    assert not Registry([plugin("a", model("walnut"))], ["model:walnut=a", "model:walnut=A"]).conflicts


def test_one_distribution_in_conflict_with_itself_has_to_be_mended() -> None:
    twice = [plugin("a", model("walnut")), Plugin("a:other", TWO[0].entry, "a", "1.0", cards=[model("walnut")])]
    assert Registry(twice).conflicts[0].hint == "update or uninstall a"


BROKEN = plugin("gamma")
BROKEN.quarantine("SyntaxError: oops")


@pytest.mark.parametrize(
    ("prefer", "told"),
    [
        ("walnut=alpha", r"cannot read --prefer 'walnut=alpha'; write kind:name=distribution; kinds: model, "),
        ("model:walnut", "cannot read --prefer"),
        ("model:walnut=", "cannot read --prefer"),
        ("modle:walnut=alpha", "cannot read --prefer"),
        ("model:=alpha", "cannot read --prefer"),
        ("model:walnut=delta", "walnut=delta: that distribution does not offer it; offered by Beta_Pack, alpha"),
        ("model:walnut=gamma", r"does not offer it \(it is broken: SyntaxError: oops\); offered by"),
        ("model:oak=alpha", "that distribution does not offer it; offered by Beta_Pack"),
        ("loader:walnut=alpha", "no installed plugin offers it; see dovetail plugins list"),
        ("model:elm=gamma", r"no installed plugin offers it \(it is broken: SyntaxError: oops\); see"),
    ],
)
def test_a_preference_that_does_not_hold_is_refused(prefer: str, told: str) -> None:
    with pytest.raises(UsageError, match=told) as caught:
        Registry([*TWO, BROKEN], [prefer])
    assert caught.value.exit_code == 2


def test_preferences_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(UsageError, match="--prefer model:walnut names both alpha and beta-pack; name one of them"):
        Registry(TWO, ["model:walnut=alpha", "model:walnut=Beta_Pack"])


def test_suspects_are_named() -> None:
    denied = plugin("delta", status="denied")
    registry = Registry([*TWO, BROKEN, denied])
    assert registry.quarantined_plugins == [BROKEN]
    assert registry.explain_missing("loader") == (
        "note that the broken plugin gamma may offer it (SyntaxError: oops); "
        "note that the plugin filter (--plugins or DOVETAIL_PLUGINS) leaves out delta"
    )
    assert "model 'walnut' is offered by Beta_Pack 1.0 and alpha 1.0, so neither is used" in registry.explain_missing(
        "model"
    )
    assert Registry([plugin("a", model("walnut"))]).explain_missing("model") == ""


def test_what_is_installed_is_loaded(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.add("some", offering("x"))
    site.add("other", offering("x"))
    assert Registry.load().conflict(ModelCard, "x") is not None
    assert Registry.load(prefer=["model:x=some"]).get(ModelCard, "x") is not None
    assert Registry.load(plugins="-other").get(ModelCard, "x") is not None
    monkeypatch.setenv("DOVETAIL_PLUGINS", "-other")
    assert Registry.load().conflict(ModelCard, "x") is None
    assert Registry.load(plugins="").conflict(ModelCard, "x") is not None


# Cards.


def test_a_card_is_frozen() -> None:
    card = model("x")
    with pytest.raises(ValidationError, match="frozen"):
        card.rank = 3  # type: ignore[misc]
    assert card == model("x")


@pytest.mark.parametrize(
    "claims",
    [
        {"name": "Upper"},
        {"name": ""},
        {"name": "x" * 65},
        {"name": "a b"},
        {"name": "a:b"},
        {"rank": -1},
        {"rank": 1001},
        {"target": "module"},
        {"target": "module.py:"},
        {"target": "1module:x"},
        {"architectures": ()},
        {"dtypes": ("fp16",)},
        {"attention": ("flash",)},
        {"tasks": ("dance",)},
        {"speed": "great"},
        {"naming": {"box": {"architectures": ["x"]}}},
    ],
    ids=str,
)
def test_a_claim_that_cannot_be_understood_is_refused(claims: dict[str, Any]) -> None:
    good = {"name": "x", "architectures": ("X",), "target": "m:M", "config": "m:C"}
    assert ModelCard(**good)  # type: ignore[arg-type]
    with pytest.raises(ValidationError):
        ModelCard(**{**good, **claims})


def test_what_stands_in_a_card_is_strict_too() -> None:
    with pytest.raises(ValidationError):
        NamingCard(architectures=("x",), target="m:N", extra=1)  # type: ignore[call-arg]
    with pytest.raises(ValidationError):
        LoaderCard(name="x", recognises="*.w", inspect="l:i", target="l:load")  # type: ignore[arg-type]
    with pytest.raises(ValidationError):
        format_("x", types=())
