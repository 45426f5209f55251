"""Jars from Maven Central, by way of the user's Maven repository."""

import os
import subprocess
import tempfile
from pathlib import Path

import filelock


def build_classpath(pom: Path, output: Path, *, timeout: float) -> str:
    """The jars of a ``pom.xml`` as Java takes them, also written to ``output``; Maven fetches those that are missing.

    Raises:
        OSError: Maven failed, or took longer than ``timeout`` seconds; what it has fetched by then stays.
    """
    command = ["mvn", "-B", "-q", "-f", str(pom), "dependency:build-classpath", f"-Dmdep.outputFile={output}"]
    with filelock.FileLock(Path(tempfile.gettempdir()) / f"kiki-maven-{os.getuid()}.lock"):  # its repository has none
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=timeout)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            lines = str(error.stdout or error).splitlines()
            raise OSError(next((line for line in lines if "ERROR" in line), lines[-1])) from error
    return output.read_text().strip()
