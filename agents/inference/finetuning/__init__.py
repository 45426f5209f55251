"""Trains adapters from recipes, with mlx-lm's own trainer, in a process of its own."""
