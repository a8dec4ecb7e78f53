"""Mote's runtime: tells a camera where it is, from one image and a map of a few megabytes."""

__version__ = "0.1.0"
