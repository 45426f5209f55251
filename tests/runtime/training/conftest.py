"""What the tests of training share."""

from agents.inference.mlx import cpu

cpu.preload()  # before any test module of this folder imports MLX
