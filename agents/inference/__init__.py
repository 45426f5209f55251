"""The inference worker: the one package that imports MLX.

:mod:`agents.inference.agent` reads turns and jobs and publishes what an
:class:`agents.inference.engine.Engine` decodes; :mod:`agents.inference.mlx.engine` is the one with a model of its own.
docs/worker.md says what lies where.
"""
