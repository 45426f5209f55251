"""Replaces modules of a model: each path holds a module or an adapter's wrapper, and optionally a cover around it."""

from typing import Any, Protocol


class Cover(Protocol):
    """A module that calls ``base`` and changes its output."""

    base: Any


class ModulePlaces:
    """The places of ``model``, by path; ``base`` are the modules that were there when this was made."""

    def __init__(self, model: Any) -> None:
        self.base: dict[str, Any] = dict(model.named_modules())
        self._covers: dict[str, Cover] = {}

    def put(self, path: str, module: Any) -> None:
        """Put ``module`` at the path, under the cover if there is one."""
        if path in self._covers:
            self._covers[path].base = module
        else:
            self._set(path, module)

    def cover(self, path: str, cover: Cover) -> None:
        """Put a cover around whatever is at the path, now and later."""
        cover.base = self._parent(path)[path.rpartition(".")[2]]
        self._covers[path] = cover
        self._set(path, cover)

    def uncover(self, path: str) -> None:
        """Remove the cover; what it covered is called directly again."""
        self._set(path, self._covers.pop(path).base)

    def _set(self, path: str, module: Any) -> None:
        self._parent(path)[path.rpartition(".")[2]] = module

    def _parent(self, path: str) -> Any:
        """The base's own parent module, without wrapper or cover."""
        return self.base[path.rpartition(".")[0]]
