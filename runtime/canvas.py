"""A canvas for pictures, written as PNG; matplotlib is the extra ``bench``."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from schemas.errors import SetupError


@contextlib.contextmanager
def canvas(path: Path, *, width: float, height: float, columns: int = 1) -> Iterator[tuple[Any, Any]]:
    """A matplotlib figure and its axes, written to ``path`` at the end. Sizes are inches.

    With several ``columns`` the axes are an array.

    Raises:
        SetupError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise SetupError("a picture needs matplotlib: install micro-kiki[bench].", param="picture") from error
    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, columns, figsize=(width, height), layout="constrained")
    yield figure, axes
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, metadata={"Software": None})
    pyplot.close(figure)
