"""Settings of an upstream server."""

from typing import Literal

from msgspec import Struct


class UpstreamAdapter(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A registered adapter as the upstream knows it.

    Attributes:
        model: the model name that answers with it; the adapter's own name when empty.
        path: where the upstream finds its files, for ``lora`` "dynamic" and "field"; never from a request.
        sha256: digest of its weights as the operator knows it, reported in results; the upstream reports none.
    """

    model: str = ""
    path: str = ""
    sha256: str = ""


class UpstreamSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which server, and how it is used.

    Attributes:
        base_url: the server's URL, including ``/v1``.
        model: the base model's name there.
        api_key: sent as a bearer key; best given as ``KIKI_AGENTS__INFERENCE__UPSTREAM__API_KEY``.
        adapters: registered adapters by name.
        lora: how a call names an adapter: "listed" (vLLM's ``--lora-modules``: a model name that is there), "dynamic"
            (vLLM's ``/v1/load_lora_adapter`` before the first use), "field" (``mlx_lm.server``: a path in the body; it
            then needs ``model`` to be the model's path, because with "default_model" it ignores adapters).
        thinking: the chat template opens the reasoning, and the server leaves it in the content.
        max_concurrent: calls in flight at most; further ones wait, ordered by lane.
        connect_timeout: seconds that connecting may take.
        read_timeout: seconds without a byte after which the upstream counts as hung.
        probe_seconds: seconds between two checks whether the server answers.
    """

    base_url: str
    model: str
    api_key: str = ""
    adapters: dict[str, UpstreamAdapter] = {}
    lora: Literal["listed", "dynamic", "field"] = "listed"
    thinking: bool = False
    max_concurrent: int = 16
    connect_timeout: float = 5.0
    read_timeout: float = 120.0
    probe_seconds: float = 5.0

    def __post_init__(self) -> None:
        if not self.base_url.startswith(("http://", "https://")):
            raise ValueError(f"upstream.base_url is '{self.base_url}'; it begins with http:// or https://.")
        if self.max_concurrent < 1:
            raise ValueError(f"upstream.max_concurrent is {self.max_concurrent}; at least 1.")
        if self.lora == "field" and self.model == "default_model":
            raise ValueError(
                "upstream.model is 'default_model', with which mlx_lm.server ignores adapters: give its path."
            )
        pathless = sorted(name for name, adapter in self.adapters.items() if self.lora != "listed" and not adapter.path)
        if pathless:
            raise ValueError(f"upstream.adapters.{pathless[0]} has no path, which lora = '{self.lora}' needs.")
