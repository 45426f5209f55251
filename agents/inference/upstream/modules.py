"""The upstream's adapters: selects the one that it can serve, names its model, and loads it when necessary."""

import time
from collections.abc import Sequence
from typing import Any

import anyio
import openai
from openai import AsyncOpenAI

from agents.inference.failures import adapter_error, missing_adapter_error
from agents.inference.settings import UpstreamAdapter, UpstreamSettings
from agents.inference.upstream.failures import translate_error
from bus.metrics import count_degraded
from schemas.adapters import AdapterInfo, AdapterListReply
from schemas.errors import KikiError, Unavailable
from schemas.findings import AdapterUse

CONTEXT_FIELDS = ("max_model_len", "context_length", "context_window", "max_context_length")
"""How servers call a model's context in their lists of models."""

Fields = tuple[str, dict[str, Any]]
"""The model name of a call, and what goes into its body besides."""


class LoraModules:
    """The adapters of the settings. No other can be used, and paths never come from a request."""

    def __init__(self, client: AsyncOpenAI, settings: UpstreamSettings) -> None:
        self._client, self._settings = client, settings
        self._loaded: set[str] = set()
        self._loading = anyio.Lock()
        self.context_tokens = 0
        """Tokens of the base model's context, as the upstream lists it; 0 when it does not."""

    def select_usable(self, uses: Sequence[AdapterUse]) -> tuple[AdapterUse, ...]:
        """The adapter of a request that the upstream can serve: one, at weight 1. The others are left out and counted.

        Raises:
            StageFailed: the requested digest is not the one in the settings.
        """
        servable = [use for use in uses if use.name in self._settings.adapters]
        for use in uses:
            if use not in servable:
                count_degraded("adapter.missing", f"adapter '{use.name}' is not registered; the base answers instead")
        if not servable:
            return ()
        if len(servable) > 1 or servable[0].factor != 1.0:
            count_degraded("upstream.adapters", "an upstream serves one adapter at scale 1; the heaviest is taken")
        heaviest = max(servable, key=lambda use: use.weight)
        digest = self._settings.adapters[heaviest.name].sha256
        if heaviest.sha256 and digest != heaviest.sha256:
            raise adapter_error(
                heaviest.name, f"its sha256 is {digest or 'not known'}, but {heaviest.sha256} was asked for"
            )
        return (AdapterUse(name=heaviest.name, sha256=digest),)

    async def prepare_fields(self, uses: Sequence[AdapterUse]) -> Fields:
        """The model name and body fields for these adapters, which :meth:`select_usable` returned.

        With ``lora`` "dynamic" the adapter is loaded first.


        Raises:
            StageFailed: code ``adapter_failed``.
            Unavailable: the upstream is away.
        """
        if not uses:
            return self._settings.model, {}
        name = uses[0].name
        adapter = self._settings.adapters[name]
        if self._settings.lora == "field":
            return self._settings.model, {"adapters": adapter.path}
        if self._settings.lora == "dynamic" and name not in self._loaded:
            await self.load(name)
        return adapter.model or name, {}

    async def load(self, name: str) -> None:
        """Have the upstream load the adapter; it is no error if it is loaded already.

        Raises:
            StageFailed: code ``adapter_failed``.
            Unavailable: the upstream is away.
        """
        adapter = self._find_adapter(name)
        async with self._loading:
            if name not in self._loaded:
                body = {"lora_name": adapter.model or name, "lora_path": adapter.path}
                await self._post("/load_lora_adapter", name, body, unless="already")
                self._loaded.add(name)

    async def unload(self, name: str) -> None:
        """Have the upstream unload the adapter; it is no error if it is not loaded.

        Raises:
            StageFailed: code ``adapter_failed``.
            Unavailable: the upstream is away.
        """
        adapter = self._find_adapter(name)
        async with self._loading:
            await self._post(
                "/unload_lora_adapter", name, {"lora_name": adapter.model or name}, unless="cannot be found"
            )
            self._loaded.discard(name)

    def forget(self) -> None:
        """Forget which adapters are loaded, which is unknown after an outage of the upstream."""
        self._loaded.clear()

    async def perform(self, verb: str, name: str, sha256: str) -> AdapterInfo:
        """Carry out an administrator's verb.

        ``check`` checks whether the upstream lists it; ``load`` and ``unload`` need ``lora`` "dynamic".

        Raises:
            StageFailed: code ``adapter_failed``.
            Unavailable: the upstream is away.
        """
        started, adapter = time.perf_counter(), self._find_adapter(name)
        if sha256 and sha256 != adapter.sha256:
            raise adapter_error(name, f"its sha256 is {adapter.sha256 or 'not known'}, but {sha256} was asked for")
        if self._settings.lora == "dynamic" and verb in ("load", "activate", "unload"):
            await (self.unload(name) if verb == "unload" else self.load(name))
        elif verb == "unload":
            raise adapter_error(name, f"with lora = '{self._settings.lora}' the upstream unloads nothing")
        info = self._info(name, adapter, await self._list_models(), seconds=time.perf_counter() - started)
        if self._settings.lora != "field" and not info.resident and verb not in ("unload", "check"):
            raise adapter_error(name, f"the upstream does not list a model '{adapter.model or name}'")
        return info

    async def list_adapters(self) -> AdapterListReply:
        """All registered adapters, and whether the upstream lists them.

        Raises:
            Unavailable: the upstream is away.
        """
        models = await self._list_models()
        infos = [self._info(name, adapter, models) for name, adapter in sorted(self._settings.adapters.items())]
        return AdapterListReply(adapters=tuple(infos))

    def _find_adapter(self, name: str) -> UpstreamAdapter:
        if name not in self._settings.adapters:
            raise missing_adapter_error(name)
        return self._settings.adapters[name]

    def _info(
        self, name: str, adapter: UpstreamAdapter, models: frozenset[str], *, seconds: float = 0.0
    ) -> AdapterInfo:
        resident = (adapter.model or name) in models
        return AdapterInfo(name=name, resident=resident, seated=resident, sha256=adapter.sha256, seconds=seconds)

    async def _list_models(self) -> frozenset[str]:
        """Models that the upstream lists; none when its list is not JSON (mlx_lm.server without a Hugging Face
        cache)."""
        try:
            models = [model async for model in self._client.models.list(timeout=self._settings.connect_timeout)]
        except openai.OpenAIError as error:
            raise translate_error(error) from error
        except ValueError as error:
            count_degraded(
                "upstream.models", f"its list of models cannot be read ({error}): no adapter counts as resident"
            )
            return frozenset()
        lengths = [_read_context(model) for model in models if model.id == self._settings.model]
        self.context_tokens = max(lengths, default=0)
        return frozenset(model.id for model in models)

    async def _post(self, path: str, name: str, body: dict[str, Any], *, unless: str) -> None:
        """Make one of vLLM's calls; a refusal whose message contains ``unless`` is fine."""
        try:
            await self._client.post(path, cast_to=str, body=body)
        except openai.OpenAIError as error:
            failure: KikiError = translate_error(error)
            if isinstance(failure, Unavailable):
                raise failure from error
            if unless not in failure.message:
                raise adapter_error(name, failure.message) from error


def _read_context(model: Any) -> int:
    """Tokens of a listed model's context; 0 when the list does not say."""
    values = [(model.model_extra or {}).get(name) for name in CONTEXT_FIELDS]
    return next((value for value in values if isinstance(value, int) and value > 0), 0)
