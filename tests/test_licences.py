"""Licences: docs/licences.md lists every installed dependency; the runtime installs nothing GPL."""

import re
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution

import pytest
from packaging.requirements import Requirement
from test_package import PROJECTS, ROOT

FAMILIES = {
    "AGPL": r"AGPL|Affero",
    "LGPL": r"LGPL|Lesser General",
    "GPL": r"\bGPL|(?<!Lesser )(?<!Affero )General Public",
    "Apache": r"Apache",
    "BSD": r"BSD",
    "BSL": r"\bBSL",
    "CC0": r"CC0",
    "MIT": r"\bMIT\b",
    "MPL": r"MPL|Mozilla",
    "OSI": r"any[- ]OSI",
    "PSF": r"PSF|Python Software Foundation",
    "Zlib": r"Zlib",
}
UNSTATED = {"setuptools"}  # whose metadata states no licence


def families(text: str) -> set[str]:
    """Return the licence families that a text names."""
    return {name for name, pattern in FAMILIES.items() if re.search(pattern, text)}


def normalized(name: str) -> str:
    """Return a distribution's name as the package index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def dependency_closure(requirements: Iterable[str]) -> set[str]:
    """Return the normalized names of requirements and of all that they need on this machine."""
    visited = set()
    remaining = [(Requirement(line), {""}) for line in requirements]
    while remaining:
        requirement, extras = remaining.pop()
        marker = requirement.marker
        if marker and not any(marker.evaluate({"extra": extra}) for extra in extras):
            continue
        name = normalized(requirement.name)
        node = name, frozenset(requirement.extras)
        if node in visited or name in map(normalized, PROJECTS):
            continue
        visited.add(node)
        lines = distribution(name).requires or []
        remaining += [(Requirement(line), requirement.extras | {""}) for line in lines]
    return {name for name, _ in visited}


def installed_licence(name: str) -> str:
    """Return the licence that a distribution's metadata states: expression, classifiers or text."""
    metadata = distribution(name).metadata
    classifiers = [text for text in metadata.get_all("Classifier", []) if "License ::" in text]
    return (
        metadata.get("License-Expression")
        or ", ".join(classifiers)
        or metadata.get("License", "")[:200]
    )


def documented_licences() -> dict[str, str]:
    """Return the licence of each package in the tables of docs/licences.md."""
    rows = re.findall(
        r"^\| ([\w.-]+) \| (.+?) \| .+ \|$", (ROOT / "docs/licences.md").read_text(), re.M
    )
    return dict(rows)


@pytest.mark.parametrize(
    "distribution_name",
    ["mote_localization", pytest.param("mote-distill", marks=pytest.mark.train)],
)
def test_documented_licences_are_those_of_installed_packages(distribution_name):
    documented = documented_licences()
    names = dependency_closure(PROJECTS[distribution_name]["dependencies"])
    assert len(names) > 20
    assert names <= documented.keys()
    for name in names - UNSTATED:
        assert families(documented[name]) == families(installed_licence(name)) != set(), name


def test_runtime_installs_nothing_under_the_gpl():
    for name in dependency_closure(PROJECTS["mote_localization"]["dependencies"]):
        text = f"{installed_licence(name)}, {documented_licences()[name]}"
        assert not families(text) & {"GPL", "AGPL", "LGPL"}, f"{name}: {text}"


def test_gpl_licences_are_recognized():
    assert families("GPL-3.0-or-later") == {"GPL"}
    assert families("License :: OSI Approved :: GNU General Public License v3 (GPLv3)") == {"GPL"}
    assert families("GNU Lesser General Public License") == {"LGPL"}
    assert families("AGPL-3.0") == {"AGPL"}
    assert families("GNU Affero General Public License v3") == {"AGPL"}


def test_dependencies_of_extras_are_found():
    try:
        distribution("aiohttp")
    except PackageNotFoundError:
        pytest.skip("needs the libraries of the trainer")
    assert "aiohttp" in dependency_closure(["fsspec[http]"])
    assert "aiohttp" not in dependency_closure(["fsspec"])
