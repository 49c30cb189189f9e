"""Virtual environments of their own for the tools that a check runs."""

import subprocess
import sys
from pathlib import Path

from checks.support.server_process import PROJECT

FOLDER = PROJECT / ".bench"


def environment(name: str, *packages: str) -> Path:
    """Return the folder of programs of an environment that holds the packages.

    They are installed when the environment does not hold exactly these. A tool's own
    dependencies then never change what the server runs on.
    """
    folder = FOLDER / name
    programs = folder / ("Scripts" if sys.platform == "win32" else "bin")
    note = folder / "installed"
    wanted = "\n".join(packages)
    if note.exists() and note.read_text() == wanted:
        return programs
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    pip = (programs / "python", "-m", "pip", "--disable-pip-version-check")
    subprocess.run([*pip, "install", "-qq", *packages], check=True)
    note.write_text(wanted)
    return programs
