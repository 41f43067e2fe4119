"""BERT: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import ModelCard, hookimpl


@hookimpl
def dovetail_register_models() -> list[ModelCard]:
    return [
        ModelCard(
            name="bert",
            summary="BERT encoders for embeddings: BGE, E5, GTE, MiniLM and others",
            architectures=("BertModel",),
            target="dovetail_models_bert.model:BertModel",
            config="dovetail_models_bert.config:BertConfig",
            tasks=("embed",),
            pooling="cls",
            attention=("bidirectional",),
            layer_kinds=("linear", "embedding"),
        ),
        ModelCard(
            name="bert-classifier",
            summary="BERT with a head for the labels of a text",
            architectures=("BertForSequenceClassification",),
            target="dovetail_models_bert.model:BertForSequenceClassification",
            config="dovetail_models_bert.config:BertConfig",
            tasks=("classify",),
            pooling="cls",
            attention=("bidirectional",),
            layer_kinds=("linear", "embedding"),
        ),
    ]
