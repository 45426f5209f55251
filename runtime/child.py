"""A process of agents: ``python -m runtime.child AGENT...``, where ``facade`` counts as one.

The supervisor starts its children with this command, and ``kiki run`` replaces itself by it, so that no such process
holds the command line's modules. When it fails, the error is its last line on standard error and its exit code is one
of :mod:`runtime.exits`.
"""

import sys
from collections.abc import Sequence


def hide_unused(names: Sequence[str]) -> None:
    """Make packages that none of these agents uses look as if they were not installed. Call it before other imports."""
    from runtime.agents import FACADE, RICH, find_spec

    specs = {name: find_spec(name) for name in names}
    unused = [set(RICH if name == FACADE else spec.unused if spec else ()) for name, spec in specs.items()]
    for package in set.intersection(*unused) if unused else ():
        sys.modules.setdefault(package, None)  # type: ignore[arg-type]  # None makes an import of it fail


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
