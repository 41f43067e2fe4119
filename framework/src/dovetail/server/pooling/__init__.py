"""Routes that return vectors and scores: embeddings, pooling, classify, score, rerank."""
