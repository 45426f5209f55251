"""Proves, once for each digest, that an adapter changes the model: its logits differ from the base's and are finite."""

from collections.abc import Collection
from typing import Any

import mlx.core as mx

from agents.inference.adapters.files import Adapter
from agents.inference.failures import adapter_error

PROBE = (1, 2, 3, 5, 8)
"""Token ids whose logits show whether a fresh adapter changes anything."""


class Proofs:
    """What was proven on this model; make it while the model is the base."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._digests: set[str] = set()
        self._base_logits = self._probe()

    def __contains__(self, sha256: str) -> bool:
        return sha256 in self._digests

    def are_known(self, adapters: Collection[Adapter]) -> bool:
        """Whether all of them were proven before."""
        return {adapter.sha256 for adapter in adapters} <= self._digests

    def prove(self, adapters: Collection[Adapter]) -> None:
        """Prove the adapters that are in the model now, if they were not.

        Raises:
            StageFailed: code ``adapter_failed``.
        """
        if self.are_known(adapters):
            return
        logits = self._probe()
        if bool(mx.all(logits == self._base_logits)) or not bool(mx.all(mx.isfinite(logits))):
            raise adapter_error(
                "+".join(adapter.name for adapter in adapters), "the model's logits do not change, or overflow"
            )
        self._digests |= {adapter.sha256 for adapter in adapters}

    def _probe(self) -> mx.array:
        logits: mx.array = self._model(mx.array([PROBE]))[0, -1]
        mx.eval(logits)
        return logits
