"""Build what is released, into dist/: wheel, source archive, what the wheel brings with it (SBOM), and their checksums.

``make dist``. The same tree makes the same bytes, wherever it lies and whoever builds it with the pinned tools:
files have the date of SOURCE_DATE_EPOCH, else one that never changes. Tested by tests/acceptance/test_dist.py.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import sbom

ROOT = Path(__file__).parents[1]
SUMS = "SHA256SUMS"


def build(root: Path, target: Path) -> list[Path]:
    """Build the tree below ``root`` into ``target``, which is made anew. Returns the files, by name."""
    shutil.rmtree(target, ignore_errors=True)
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-t", "sdist", "-d", str(target)]
    subprocess.run(command, cwd=root, check=True, stdout=subprocess.DEVNULL)
    (wheel,) = target.glob("*.whl")
    sbom.write(wheel)
    files = sorted(target.iterdir())
    lines = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files]
    (target / SUMS).write_text("".join(lines))
    return [*files, target / SUMS]


if __name__ == "__main__":
    place = Path(sys.argv[1]).absolute() if len(sys.argv) > 1 else ROOT / "dist"
    build(ROOT, place)
    sys.stdout.write((place / SUMS).read_text())
