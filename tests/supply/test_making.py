"""What make writes and asks of the lock files."""

import json
import subprocess
import sys
from pathlib import Path

from tests.supply.locking import LOCKS, ROOT, read_pins

MAKE = ["make", "-C", str(ROOT), "-o", "dev", f"BIN={Path(sys.executable).parent}"]
"""make, with this environment in the place of the one that it would build."""


def test_the_bill_of_materials_has_each_pin_with_its_hashes(tmp_path: Path) -> None:
    bill_file = tmp_path / "out" / "sbom.json"
    subprocess.run([*MAKE, "sbom", f"SBOM={bill_file}"], check=True, capture_output=True)
    bill = json.loads(bill_file.read_text())
    assert (bill["bomFormat"], bill["metadata"]["component"]["name"]) == ("CycloneDX", "micro-kiki")
    runtime, source, torch = (read_pins(LOCKS / name) for name in ("runtime.txt", "source.txt", "torch.txt"))
    runtime |= source
    versions = {component["purl"]: component for component in bill["components"]}
    for pins in (runtime, torch):
        for name, pin in pins.items():
            (version,) = pin.specifier
            (component,) = (part for purl, part in versions.items() if purl == f"pkg:pypi/{name}@{version.version}")
            hashes = [item for place in component["externalReferences"] for item in place.get("hashes", ())]
            assert bool(hashes) == (pins is runtime)
    assert len(bill["components"]) == len(runtime) + len(torch)


def test_the_audit_is_strict_and_reads_all_that_is_locked() -> None:
    plan = subprocess.run([*MAKE, "-n", "audit"], check=True, capture_output=True, text=True).stdout
    assert "pip-audit --strict" in plan
    assert all(f"-r deploy/requirements/{name}" in plan for name in ("dev.txt", "source.txt", "torch.txt"))
    assert "make -o dev audit" in (ROOT / ".github" / "workflows" / "supply.yml").read_text()
