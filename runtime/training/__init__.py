"""Trains the adapters: ``kiki train`` and ``kiki validate``. What computes is a child process of the worker's package.

:mod:`runtime.training.recipes`: how an adapter is trained, in the form that ``python -m mlx_lm lora --config`` takes.
:mod:`runtime.training.curriculum`: the order in which the domains are trained.
:mod:`runtime.training.generation`: writes ``configs/lora`` from ``configs/domains.yaml``.
:mod:`runtime.training.validation`: the checks of ``kiki validate``.
:mod:`runtime.training.data`: reads and checks the examples.
:mod:`runtime.training.plan`: everything that is settled before the first step.
:mod:`runtime.training.workspace`: checkpoints and history of a run that is under way, and the lock.
:mod:`runtime.training.trainer`: runs the child process and follows its progress.
:mod:`runtime.training.publication`: puts the finished adapter in its place in one step.
:mod:`runtime.training.proposal`: has a finished adapter judged, here and by a running runtime.
:mod:`runtime.training.curve`: the loss curve as a picture.
"""
