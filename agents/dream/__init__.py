"""Consolidation for dream-of-kiki: dream episodes on LoRA adapters, and the swap that puts their result before people.

Pure: :mod:`agents.dream.profiles`, :mod:`agents.dream.budget`, :mod:`agents.dream.factors` (adapters as matrices),
:mod:`agents.dream.projection` (OPLoRA), :mod:`agents.dream.merging` (TIES), :mod:`agents.dream.latents`,
:mod:`agents.dream.invariants`, :mod:`agents.dream.beta`. On the bus: :mod:`agents.dream.execution`,
:mod:`agents.dream.swap`, :mod:`agents.dream.journal`, :mod:`agents.dream.agent`; :mod:`agents.dream.substrate` is for
a Python runtime that drives it from outside.
"""
