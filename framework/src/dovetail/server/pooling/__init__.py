"""Routes that answer with vectors and scores: embeddings, pooling, classify, score, rerank."""
