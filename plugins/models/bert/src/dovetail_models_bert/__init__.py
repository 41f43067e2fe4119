"""BERT, RoBERTa, ModernBERT and Nomic's BERT: registration only, nothing heavy."""

from __future__ import annotations

from dovetail.api import ModelCard, NamingCard, hookimpl


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
            naming={"gguf": NamingCard(architectures=("bert",), target="dovetail_models_bert.gguf:BERT")},
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
        ModelCard(
            name="roberta",
            summary="RoBERTa and XLM-RoBERTa encoders for embeddings: BGE-M3, multilingual E5 and others",
            architectures=("XLMRobertaModel", "RobertaModel", "CamembertModel"),
            target="dovetail_models_bert.model:RobertaModel",
            config="dovetail_models_bert.config:RobertaConfig",
            tasks=("embed",),
            pooling="cls",
            attention=("bidirectional",),
            layer_kinds=("linear", "embedding"),
        ),
        ModelCard(
            name="roberta-classifier",
            summary="RoBERTa with a head for labels, or for the score of a pair of texts (cross-encoders such as bge-reranker)",
            architectures=(
                "XLMRobertaForSequenceClassification",
                "RobertaForSequenceClassification",
                "CamembertForSequenceClassification",
            ),
            target="dovetail_models_bert.model:RobertaForSequenceClassification",
            config="dovetail_models_bert.config:RobertaConfig",
            tasks=("score", "classify"),
            pooling="cls",
            attention=("bidirectional",),
            layer_kinds=("linear", "embedding"),
        ),
        ModelCard(
            name="modernbert",
            summary="ModernBERT encoders for embeddings: GTE, Nomic's and others",
            architectures=("ModernBertModel",),
            target="dovetail_models_bert.modern:ModernBertModel",
            config="dovetail_models_bert.config:ModernBertConfig",
            tasks=("embed",),
            pooling="cls",
            attention=("bidirectional", "sliding"),
            layer_kinds=("linear", "embedding"),
        ),
        ModelCard(
            name="modernbert-classifier",
            summary="ModernBERT with a head for labels, or for the score of a pair of texts (cross-encoders such as GTE's reranker)",
            architectures=("ModernBertForSequenceClassification",),
            target="dovetail_models_bert.modern:ModernBertForSequenceClassification",
            config="dovetail_models_bert.config:ModernBertConfig",
            tasks=("score", "classify"),
            pooling="cls",
            attention=("bidirectional", "sliding"),
            layer_kinds=("linear", "embedding"),
        ),
        ModelCard(
            name="nomic-bert",
            summary="Nomic's BERT, with rotary embeddings: nomic-embed-text v1 and v1.5",
            architectures=("NomicBertModel",),
            target="dovetail_models_bert.model:NomicBertModel",
            config="dovetail_models_bert.config:NomicBertConfig",
            tasks=("embed",),
            pooling="mean",
            attention=("bidirectional",),
            layer_kinds=("linear", "embedding"),
            naming={"gguf": NamingCard(architectures=("nomic-bert",), target="dovetail_models_bert.gguf:NOMIC_BERT")},
        ),
    ]
