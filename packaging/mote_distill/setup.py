"""Removes the modules of an earlier build, which may no longer be in the packages."""

import shutil
from pathlib import Path

import setuptools

shutil.rmtree(Path(__file__).with_name("build") / "lib", ignore_errors=True)
setuptools.setup()
