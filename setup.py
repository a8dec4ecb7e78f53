"""Adds to pyproject.toml what ament needs: files under share/ and values that colcon can read."""

import shutil
import sys
from glob import glob
from pathlib import Path

import setuptools

NAME = "mote_localization"

if int(setuptools.__version__.split(".")[0]) < 61:
    sys.exit(f"{NAME}: setuptools 61 or later is needed, found {setuptools.__version__}; use .venv")

# an earlier build may have left modules there that are no longer in the package
shutil.rmtree(Path(__file__).with_name("build") / "lib", ignore_errors=True)


class Distribution(setuptools.Distribution):
    """Holds the range of Python versions as text: colcon evaluates the `repr` of each value."""

    def parse_config_files(self, *args, **options) -> None:
        """Read setup.cfg and pyproject.toml."""
        super().parse_config_files(*args, **options)
        self.python_requires = self.metadata.python_requires = str(self.python_requires)


setuptools.setup(
    distclass=Distribution,
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        *((f"share/{NAME}/{kind}", glob(f"{kind}/*.*")) for kind in ("config", "launch", "rviz")),
    ],
)
