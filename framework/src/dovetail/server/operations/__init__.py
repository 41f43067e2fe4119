"""Routes for operators: models, health, metrics, statistics, sleep, adapters, tokenization."""
