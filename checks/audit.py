"""Report the pinned packages that have a known vulnerability.

    python -m checks.audit [--osv-url URL] [FILE ...]

The files are compiled requirements: by default requirements-checks.txt, which holds
what the others hold. pip-audit asks the package index, or the service at the URL. A
known vulnerability fails the check, and so does a file that pip-audit cannot read. If
the service cannot be reached, or does not know a package, the check says so and passes.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from checks.support.report import print_table
from checks.support.server_process import PROJECT

FILE = str(PROJECT / "requirements-checks.txt")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pip-audit on what is pinned, without resolving anything."""
    command = [sys.executable, "-m", "pip_audit", "--require-hashes", "--disable-pip"]
    command += ["--progress-spinner", "off", "--format", "json", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def judge(packages: Sequence[dict[str, Any]]) -> int:
    """Print the known vulnerabilities and what was not audited; 1 if there are any."""
    found = [
        (package["name"], package["version"], one["id"], ", ".join(one["fix_versions"]))
        for package in packages
        for one in package.get("vulns", ())
    ]
    if found:
        print_table(("package", "version", "vulnerability", "fixed in"), found)
    skipped = [one["name"] for one in packages if "skip_reason" in one]
    audited = len(packages) - len(skipped)
    if not audited:
        print(f"not audited: the service knows none of the {len(packages)} packages")
    else:
        print(f"{audited} packages audited, {len(found)} known vulnerabilities")
        if skipped:
            print(f"not audited: {', '.join(skipped)}")
    return 1 if found else 0


def main() -> int:
    """Run the check; 1 on a known vulnerability."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", metavar="FILE", default=[FILE])
    parser.add_argument("--osv-url", help="another service, which speaks OSV's API")
    options = parser.parse_args()
    inputs = [part for file in options.files for part in ("--requirement", file)]
    service = ["--vulnerability-service", "osv", "--osv-url", options.osv_url]

    # A dry run reads the files and sends nothing: it fails on a bad file alone.
    dry = run("--dry-run", *inputs)
    if dry.returncode:
        print(dry.stderr)
        return 1
    audit = run(*inputs, *(service if options.osv_url else ()))
    try:
        report = json.loads(audit.stdout)
    except ValueError:
        print("not audited:", (audit.stderr.strip().splitlines() or ["no reply"])[-1])
        return 0
    return judge(report["dependencies"])


if __name__ == "__main__":
    sys.exit(main())
