"""Catfish (arXiv 2505.21503): objects where agreement is silent and the question is hard, before the decision."""
