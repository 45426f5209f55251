"""Angles between what two adapters change, for each module, each kind of module, each layer, and over all.

The angle between two changes is that between their matrices read as vectors: 0 degrees is the same direction, at
90 degrees they share none. It needs only the low-rank factors, never the matrices.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from agents.shared.adapters.files import AdapterFile, kind_of, layer_of
from agents.shared.adapters.low_rank import Factors
from schemas.errors import InvalidInput

Group = TypeVar("Group", str, int)
FREE_NUMBERS = 256
"""Numbers that a module's change must be free to choose, so that its angle alone says something."""
FLOOR = 0.01
"""Of the root mean square of an adapter's modules: a change with a smaller norm is not judged by itself."""


@dataclass(frozen=True)
class Products:
    """Of two changes: their inner product, and the square of each one's norm. They add up over modules.

    ``free``: how many numbers the narrower change is free to choose, its rank times the module's smaller side.
    """

    inner: float = 0.0
    first: float = 0.0
    second: float = 0.0
    free: int = 0

    def __add__(self, other: "Products") -> "Products":
        return Products(
            self.inner + other.inner, self.first + other.first, self.second + other.second, self.free + other.free
        )

    @property
    def degrees(self) -> float:
        """The angle, 0 to 180; 90 when one of the two changes nothing."""
        size = float(np.sqrt(self.first) * np.sqrt(self.second))
        return float(np.degrees(np.arccos(np.clip(self.inner / size, -1.0, 1.0)))) if size else 90.0


def gram(parts: Sequence[Factors]) -> NDArray[np.float64]:
    """Inner products (n, n) of the changes that n adapters make to one module."""
    left = np.concatenate([part.left for part in parts], axis=-1)
    right = np.concatenate([part.right for part in parts], axis=-2)
    products = (np.swapaxes(left, -1, -2) @ left) * (right @ np.swapaxes(right, -1, -2))
    by_column = products.reshape(-1, *products.shape[-2:]).sum(axis=0, dtype=np.float64)
    begins = np.cumsum([0, *(part.rank for part in parts[:-1])])
    totals: NDArray[np.float64] = np.add.reduceat(np.add.reduceat(by_column, begins, axis=0), begins, axis=1)
    return totals


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two adapters by name, and the products of each module that one of them changes."""

    first: str
    second: str
    modules: Mapping[str, Products]

    @property
    def shared(self) -> tuple[str, ...]:
        """The modules that both change."""
        return tuple(module for module, products in self.modules.items() if products.first and products.second)

    @property
    def smallest(self) -> tuple[float, str]:
        """The gate's angle in degrees, and the module or kind of modules that has it; 90 when none is shared.

        It is the minimum over all single modules, and over each kind with all its layers: what overwrites a prior does
        so where the two changes lie, and a copied module of hundreds is lost in any average. Two sorts of modules count
        with their kind only. A change with fewer than :data:`FREE_NUMBERS` is nearly a direction among a handful (the
        gate of a shared expert has one output: 16 numbers of rank 16, given that trainers begin from one lora_a), so
        that honest adapters meet there by chance; and what changes less than :data:`FLOOR` of the adapter's root mean
        square is noise, which overwrites nothing.
        """
        groups: dict[tuple[str, ...], str] = {
            (module,): module for module in self.shared if self.modules[module].free >= FREE_NUMBERS
        }
        groups |= {tuple(modules): kind for kind, modules in self._group(kind_of).items()}
        angles = [(self._pool(modules).degrees, name) for modules, name in groups.items() if self._is_felt(modules)]
        return min(angles, default=(90.0, ""))

    @property
    def overall(self) -> float:
        """Degrees between the whole changes. A module that was copied hardly lowers it."""
        return self._pool(self.modules).degrees

    @property
    def by_module(self) -> dict[str, float]:
        """Degrees in each module that both change."""
        return {module: self.modules[module].degrees for module in self.shared}

    @property
    def by_kind(self) -> dict[str, float]:
        """Degrees over all layers of each kind of module that both change."""
        return {kind: self._pool(modules).degrees for kind, modules in self._group(kind_of).items()}

    @property
    def by_layer(self) -> dict[int, float]:
        """Degrees over all modules of each layer in which both change one."""
        return {layer: self._pool(modules).degrees for layer, modules in self._group(layer_of).items()}

    def _pool(self, modules: Iterable[str]) -> Products:
        return sum((self.modules[module] for module in modules), Products())

    def _group(self, group_of: Callable[[str], Group | None]) -> dict[Group, list[str]]:
        groups: dict[Group, list[str]] = {}
        for module in self.shared:
            if (group := group_of(module)) is not None:
                groups.setdefault(group, []).append(module)
        return dict(sorted(groups.items()))

    def _is_felt(self, modules: Collection[str]) -> bool:
        """Whether both changes of the modules are above the floor, in the root mean square."""
        part, whole = self._pool(modules), self._pool(self.modules)
        firsts, seconds = (
            sum(1 for products in self.modules.values() if getattr(products, side)) for side in ("first", "second")
        )
        floor = FLOOR**2 * len(modules)
        return part.first >= floor * whole.first / firsts and part.second >= floor * whole.second / seconds


def compare_adapters(
    files: Sequence[AdapterFile], *, on_advance: Callable[[], None] = lambda: None
) -> dict[tuple[int, int], Comparison]:
    """Every pair of adapters, by their places in ``files``, the smaller first.

    Each file is read once, one module of all adapters at a time; ``on_advance`` is called after each module.

    Raises:
        InvalidInput: two of them have a module of different shapes, so they are of different bases.
    """
    by_pair: dict[tuple[int, int], dict[str, Products]] = {(i, j): {} for j in range(len(files)) for i in range(j)}
    for module in sorted({module for file in files for module in file.modules}):
        places = [place for place, file in enumerate(files) if module in file.modules]
        _check_shapes(module, [files[place] for place in places])
        parts = [files[place].read(module) for place in places]
        products, free = gram(parts), [part.rank * min(part.left.shape[-2], part.right.shape[-1]) for part in parts]
        row_of = {place: row for row, place in enumerate(places)}
        for (i, j), modules in by_pair.items():
            a, b = row_of.get(i), row_of.get(j)
            if a is not None or b is not None:
                modules[module] = Products(
                    inner=float(products[a, b]) if a is not None and b is not None else 0.0,
                    first=float(products[a, a]) if a is not None else 0.0,
                    second=float(products[b, b]) if b is not None else 0.0,
                    free=min(free[a], free[b]) if a is not None and b is not None else 0,
                )
        on_advance()
    return {
        (i, j): Comparison(first=files[i].name, second=files[j].name, modules=modules)
        for (i, j), modules in by_pair.items()
    }


def _check_shapes(module: str, files: Sequence[AdapterFile]) -> None:
    """Refuse a module whose change is not of one shape in all files; the ranks may differ."""
    sizes = {}
    for file in files:
        a, b = file.shapes(module)
        sizes[(a[0], b[-1]) if len(a) == 2 else (a[0], a[2], b[1])] = file
    if len(sizes) > 1:
        (first_size, first), (second_size, second), *_ = sizes.items()
        raise InvalidInput(
            f"'{first.name}' changes {module} as {first_size} and '{second.name}' as {second_size}: "
            "they are of different bases, compare adapters of one.",
            param="adapters",
        )
