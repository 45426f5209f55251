"""The embedder: turns texts into unit vectors, and compares texts."""
