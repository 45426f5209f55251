"""35 niche domains, 31 outputs, three merged groups."""

import pytest

from agents.shared.domains import load_taxonomy
from schemas.errors import SetupError


def test_the_taxonomy_has_its_counts_and_groups() -> None:
    taxonomy = load_taxonomy()
    assert len(taxonomy.niches) == 35
    assert len(taxonomy.outputs) == 31
    assert list(taxonomy.outputs) == sorted(taxonomy.outputs)
    assert taxonomy.merged == {
        "electronics-hw": ("components", "electronics", "power"),
        "kicad": ("kicad-dsl", "kicad-pcb"),
        "spice": ("spice", "spice-sim"),
    }


def test_outputs_of_niches_and_of_outputs() -> None:
    taxonomy = load_taxonomy()
    assert taxonomy.output_of("power") == "electronics-hw"
    assert taxonomy.output_of("electronics-hw") == "electronics-hw"
    assert taxonomy.output_of("rust") == "rust"
    with pytest.raises(SetupError, match="no domain 'cooking'"):
        taxonomy.output_of("cooking")
