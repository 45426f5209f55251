"""Where modules stand in a model: an adapter's wrapper may stand in a place, and a cover over whatever stands there."""

from typing import Any, Protocol


class Cover(Protocol):
    """A module that calls ``base`` and changes its output."""

    base: Any


class ModulePlaces:
    """The places of ``model``, by path; ``base`` are the modules that stood there when it was loaded."""

    def __init__(self, model: Any) -> None:
        self.base: dict[str, Any] = dict(model.named_modules())
        self._covers: dict[str, Cover] = {}

    def put(self, path: str, module: Any) -> None:
        """Let ``module`` stand there, under the cover if there is one."""
        if path in self._covers:
            self._covers[path].base = module
        else:
            self._stand(path, module)

    def cover(self, path: str, cover: Cover) -> None:
        """Cover what stands there from now on."""
        cover.base = self._parent(path)[path.rpartition(".")[2]]
        self._covers[path] = cover
        self._stand(path, cover)

    def uncover(self, path: str) -> None:
        """Take the cover away; what it covered stands there again."""
        self._stand(path, self._covers.pop(path).base)

    def _stand(self, path: str, module: Any) -> None:
        self._parent(path)[path.rpartition(".")[2]] = module

    def _parent(self, path: str) -> Any:
        """The base's own parent, whatever stands around that now."""
        return self.base[path.rpartition(".")[0]]
