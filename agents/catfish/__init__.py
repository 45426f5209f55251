"""Catfish (arXiv 2505.21503): objects before the decision, when the question is hard and nobody disagrees."""
