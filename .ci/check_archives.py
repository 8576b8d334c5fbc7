"""Check that a wheel holds the package and nothing else, and an sdist all that a checkout has."""

import sys
import tarfile
import zipfile
from pathlib import Path

PACKAGE = "captum_unioncam"
ROOT = Path(__file__).parents[1]
SHIPPED_AS_SOURCE = (".ci", ".github", "benchmarks", "docs", "spaces", "tests", "tutorials")


def files_below(folder: str) -> set[str]:
    """Return the files of a folder of the checkout, without what running it left there."""
    paths = (path.relative_to(ROOT) for path in (ROOT / folder).rglob("*") if path.is_file())
    return {path.as_posix() for path in paths if "__pycache__" not in path.parts}


def main(dist: Path) -> None:
    """Exit with a message that names what is missing or too much."""
    [wheel], [sdist] = dist.glob("*.whl"), dist.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    if names != files_below(PACKAGE):
        sys.exit(f"{wheel.name} differs from {PACKAGE}/: {sorted(names ^ files_below(PACKAGE))}")
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {name for folder in (PACKAGE, *SHIPPED_AS_SOURCE) for name in files_below(folder)}
    wanted |= {path.name for path in ROOT.glob("*.md")}
    wanted |= {"Dockerfile", "conftest.py", "pyproject.toml"}
    if wanted - held:
        sys.exit(f"{sdist.name} lacks {sorted(wanted - held)}")
    print(f"{wheel.name}: {len(names)} files, all of {PACKAGE}/")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
