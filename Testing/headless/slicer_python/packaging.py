"""`slicer.packaging` that looks but never installs: `installed` notes what it was asked for."""

from __future__ import annotations

import importlib.metadata
import logging
import tomllib
from pathlib import Path

import slicer
from packaging.requirements import InvalidRequirement, Requirement

installed: list[str] = []
"""What pip_install was asked to install."""


def load_requirements(path) -> list[Requirement]:
    lines = [line.strip() for line in Path(path).read_text().splitlines()]
    return [Requirement(line) for line in lines if line and line[0] not in "#-"]


def load_pyproject_dependencies(path) -> list[Requirement]:
    data = tomllib.loads(Path(path).read_text())
    if "project" not in data:
        raise KeyError(f"pyproject.toml has no [project] table: {path}")
    return [Requirement(text) for text in data["project"].get("dependencies", [])]


def _requirements(given) -> list[Requirement]:
    if isinstance(given, str):
        try:
            return [Requirement(given)]
        except InvalidRequirement:
            return [Requirement(word) for word in given.split()]
    if isinstance(given, Requirement):
        return [given]
    if isinstance(given, list):
        return [Requirement(one) if isinstance(one, str) else one for one in given]
    raise TypeError(f"Expected str, Requirement, or list, got {type(given).__name__}")


def _satisfied(requirement: Requirement) -> bool:
    if requirement.marker is not None and not requirement.marker.evaluate():
        return True
    try:
        return importlib.metadata.version(requirement.name) in requirement.specifier
    except importlib.metadata.PackageNotFoundError:
        return False


def pip_check(req) -> bool:
    """Whether all are installed; unlike Slicer's it does not follow extras."""
    return all(_satisfied(requirement) for requirement in _requirements(req))


def isPipInstallInProgress() -> bool:
    return False


def pip_ensure(
    requirements,
    constraints=None,
    skip_packages=None,
    prompt_install=True,
    prompt_restart=True,
    requester=None,
    skip_in_testing=True,
    show_progress=True,
):
    """Asks as Slicer does, and raises RuntimeError if the user declines."""
    missing = [r for r in _requirements(requirements) if not _satisfied(r)]
    if not missing:
        return None
    if skip_in_testing and slicer.app.testingEnabled():
        logging.info(f"Testing mode is enabled: skipping pip_ensure for {missing}")
        return None
    title = f"{requester} - Install Python Packages" if requester else "Install Python Packages"
    if prompt_install and not slicer.util.confirmOkCancelDisplay(
        f"{len(missing)} Python packages need to be installed.",
        title,
        detailedText="\n".join(f"- {r}" for r in missing),
    ):
        raise RuntimeError("User declined package installation")
    return pip_install([str(r) for r in missing], constraints, skip_packages=skip_packages)


def pip_install(
    requirements,
    constraints=None,
    no_deps_requirements=None,
    skip_packages=None,
    blocking=True,
    show_progress=True,
    requester=None,
    logCallback=None,
    completedCallback=None,
):
    """Installs nothing; notes what it was asked for."""
    installed.extend(requirements.split() if isinstance(requirements, str) else requirements)
    if not blocking and completedCallback:
        completedCallback(0)
    return [] if skip_packages is not None else None


def pip_uninstall(requirements, blocking=True, logCallback=None, completedCallback=None):
    """Uninstalls nothing."""
    names = requirements.split() if isinstance(requirements, str) else requirements
    installed[:] = [name for name in installed if name not in names]
