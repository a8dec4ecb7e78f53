"""Mote's runtime: localizes a camera from one image, with a map of a few megabytes."""

__version__ = "0.1.0"
