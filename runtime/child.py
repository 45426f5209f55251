"""A process of agents: ``python -m runtime.child AGENT...``, where ``facade`` counts as one.

The supervisor starts its children so, and ``kiki run`` becomes one: none holds the command line's modules. What ends it
is the last line on standard error, under an exit code of :mod:`runtime.exits`.
"""

import sys
from collections.abc import Sequence

UNUSED = {
    "router": ("rich", "triton"),
    "embedder": ("rich", "triton"),
    "memory": ("rich",),
    "inference": ("torch",),
    "catfish": ("rich",),
    "negotiator": ("rich",),
    "antibias": ("rich",),
    "services": ("rich",),
    "dream": ("rich",),
    "facade": ("rich",),
}
"""Packages that an agent does not use, though its libraries import them where they are installed: structlog and httpx
import rich (mlx-lm cannot do without it), torch imports triton, which compiles for GPUs, and transformers, which reads
the worker's tokenizer, imports torch."""


def hide_unused(names: Sequence[str]) -> None:
    """Make the packages that none of these agents uses look as if they were not installed. Call it before any import.

    An agent that :data:`UNUSED` does not name may use everything.
    """
    for package in {package for packages in UNUSED.values() for package in packages}:
        if all(package in UNUSED.get(name, ()) for name in names):
            sys.modules.setdefault(package, None)  # type: ignore[arg-type]  # Python's word for "not to be imported"


def main(names: Sequence[str]) -> None:
    """Run the agents until the process is stopped."""
    hide_unused(names)
    from runtime.exits import exit_code, first_error
    from runtime.process import run
    from schemas.errors import KikiError

    try:
        run(names)
    except KikiError as error:
        failure = error
    except BaseExceptionGroup as group:
        failure = first_error(group)
    else:
        return
    sys.stderr.write(f"kiki: {failure.message}\n")
    sys.exit(exit_code(failure))


if __name__ == "__main__":
    main(sys.argv[1:])
