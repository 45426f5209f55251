"""The embedder: texts to unit vectors, and how alike texts are."""
