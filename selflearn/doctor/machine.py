"""The machine and what is installed on it."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from selflearn.doctor.finding import Finding, in_units

PACKAGE: Final = "selflearn"
_INSTALL: Final = "Install selflearn again: it brings what it needs (make install, or pip install)."


def check_libraries(package: str = PACKAGE) -> Finding:
    """Whether Python and each library is there in a version that ``package`` was made for.

    Libraries of extras may be missing; those that are there must fit as well.
    """
    try:
        described = metadata.metadata(package)
    except metadata.PackageNotFoundError:
        found = f"{package} is not installed as a package; its libraries cannot be compared"
        return Finding("libraries", "warn", found, _INSTALL)
    wanted = SpecifierSet(described["Requires-Python"] or "")
    if platform.python_version() not in wanted:
        found = f"Python {platform.python_version()}, expected {wanted}"
        return Finding("libraries", "fail", found, f"Run selflearn with a Python {wanted}.")
    if missing := list(_unfit(package, optional=False)):
        return Finding("libraries", "fail", "; ".join(missing), _INSTALL)
    if others := list(_unfit(package, optional=True)):
        return Finding("libraries", "warn", "; ".join(others), "Install those again: pip install 'selflearn[EXTRA]'.")
    return Finding("libraries", "ok", f"Python {platform.python_version()}, {package} {described['Version']}")


def _unfit(package: str, *, optional: bool) -> Iterator[str]:
    """What is missing or outside of its range, in words."""
    for requirement in map(Requirement, metadata.requires(package) or ()):
        marker = requirement.marker
        extra = marker is not None and "extra ==" in str(marker)
        if extra is not optional or (marker is not None and not extra and not marker.evaluate()):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            if not optional:
                yield f"{requirement.name} is missing, expected {requirement.specifier or 'any version'}"
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            yield f"{requirement.name} {version}, expected {requirement.specifier}"


def check_memory(needed: tuple[int, int] | None, meminfo: Path = Path("/proc/meminfo")) -> Finding:
    """Whether the memory that is free is enough: in bytes to serve, and to serve with an update beside it.

    None: there is nothing to compare with, as with a model that is not there or computes on a GPU.
    """
    free, total = _memory(meminfo)
    if free is None or total is None:
        return Finding("memory", "warn", "how much memory is free cannot be read", "Look yourself: free -m.")
    found = f"{in_units(free)} of {in_units(total)} free"
    if needed is None:
        return Finding("memory", "ok", found)
    serves, learns = needed
    found += f"; serving takes about {in_units(serves)}, with an update beside it {in_units(learns)}"
    smaller = "Take a smaller model or fewer serving.cache_tokens"
    if total < serves:
        return Finding("memory", "fail", found, f"{smaller}: this machine cannot hold it.")
    if free < serves:
        return Finding("memory", "fail", found, f"End what else uses memory. {smaller}.")
    if free < learns:
        advice = f"An update may run out of memory and fail; answers go on. {smaller}, or learn on another machine."
        return Finding("memory", "warn", found, advice)
    return Finding("memory", "ok", found)


def _memory(meminfo: Path) -> tuple[int | None, int | None]:
    """Free and total bytes of this machine, or of the container if that has less; None where they cannot be read."""
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text(encoding="ascii").splitlines() if ":" in line)
        free, total = (int(lines[name].split()[0]) * 1024 for name in ("MemAvailable", "MemTotal"))
    except (OSError, KeyError, ValueError):
        return None, None
    group = Path("/sys/fs/cgroup")
    try:
        most = int((group / "memory.max").read_text(encoding="ascii"))
        used = int((group / "memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):  # no such group, or "max": no limit
        return free, total
    return min(free, most - used), min(total, most)
