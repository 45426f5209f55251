"""What a first start is going to fetch, in words, before the first byte of it."""

from collections.abc import Iterable
from pathlib import Path

from runtime.models import store
from runtime.models.catalog import CATALOG
from runtime.models.prepare import find_ready

LINE_BITS = 50e6
"""Bits a second of the line by which the time of a download is given."""


def plan_downloads(names: Iterable[str], *, cache_dir: Path | None = None) -> list[str]:
    """Lines that say what must be fetched of ``names``, from where, how much, how long, and where it is kept.

    No lines when everything is ready.

    Raises:
        SetupError: there is no such model.
    """
    missing = [name for name in names if find_ready(name, cache_dir=cache_dir) is None]
    if not missing:
        return []
    sizes = [CATALOG[name].size for name in missing if name in CATALOG]
    lines = [f"fetched once and kept in {store.cache_home(cache_dir) / 'models'}:"]
    lines += [f"  {name}: {_describe_fetch(name)}" for name in missing]
    if sizes:
        minutes = max(1, round(sum(sizes) * 8 / LINE_BITS / 60))
        lines.append(f"  {sum(sizes) / 1e6:.0f} MB: about {minutes} min at 50 Mbit/s, then the conversion")
    return lines


def _describe_fetch(name: str) -> str:
    if model := CATALOG.get(name):
        sources = ", or else ".join(source.title for source in model.sources)
        return f"{model.size / 1e6:.0f} MB from {sources}"
    return "only converted" if name.lower().endswith(".gguf") else "from the hub; its size shows when it begins"
