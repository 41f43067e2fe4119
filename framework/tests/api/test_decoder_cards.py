"""The three cards of a decoder."""

from __future__ import annotations

from dovetail.api import NamingCard, decoder_cards

NAMING = NamingCard(architectures=("nut",), target="nut.names:NAMING")


def test_each_form_has_what_it_serves() -> None:
    text, embedding, classifier = decoder_cards(
        "nut",
        "Nuts",
        "Nut",
        target="nut.model:Walnut",
        config="nut.config:NutConfig",
        experts=True,
        attention=("sliding",),
        headless={"attention": ("sliding", "bidirectional")},
        naming={"box": NAMING},
        pooling="mean",
    )
    assert [card.name for card in (text, embedding, classifier)] == ["nut", "nut-embedding", "nut-classifier"]
    assert [card.architectures for card in (text, embedding, classifier)] == [
        ("NutForCausalLM",),
        ("NutModel",),
        ("NutForSequenceClassification",),
    ]
    assert [card.target for card in (text, classifier)] == [
        "nut.model:WalnutForCausalLM",
        "nut.model:WalnutForSequenceClassification",
    ]
    assert [card.tasks for card in (text, embedding, classifier)] == [("generate",), ("embed",), ("score", "classify")]
    assert set(text.layer_kinds) == {"linear", "embedding", "experts", "head"}
    assert set(embedding.layer_kinds) == {"linear", "embedding", "experts"}
    assert set(classifier.layer_kinds) == {"linear", "embedding", "experts", "head"}
    assert (text.attention, embedding.attention) == (("sliding",), ("sliding", "bidirectional"))
    assert (text.naming, embedding.naming) == ({"box": NAMING}, {})
    assert {card.pooling for card in (text, embedding, classifier)} == {"mean"}


def test_only_the_forms_that_there_are() -> None:
    found = decoder_cards("nut", "Nuts", "Nut", target="a.b:Nut", config="a.b:C", forms=("ForCausalLM",))
    assert [card.architectures for card in found] == [("NutForCausalLM",)]
