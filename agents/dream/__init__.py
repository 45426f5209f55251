"""Consolidation for dream-of-kiki: dream episodes on LoRA adapters, and the swap that puts their result into use.

Pure: :mod:`agents.dream.settings`, :mod:`agents.dream.profiles` (what an episode may do), :mod:`agents.dream.budget`,
:mod:`agents.shared.adapters.low_rank` (adapters as matrices),
:mod:`agents.dream.projection` (OPLoRA), :mod:`agents.dream.merging` (TIES), :mod:`agents.dream.latents`,
:mod:`agents.dream.invariants`, :mod:`agents.dream.beta`. On the bus: :mod:`agents.dream.agent`,
:mod:`agents.dream.execution` (one episode), :mod:`agents.dream.weights` (adapters fetched from the worker),
:mod:`agents.dream.training`, :mod:`agents.dream.swap`, :mod:`agents.shared.retained` (the questions that a swap must
not unlearn), :mod:`agents.dream.ring` (latent snapshots), :mod:`agents.dream.journal` (the log).
:mod:`agents.dream.substrate` is for a Python runtime outside that drives all this.
"""
