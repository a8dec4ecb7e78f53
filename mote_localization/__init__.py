"""Mote's runtime: localizes a camera from one image, with a map of a few megabytes."""

import os

# read when onnxruntime is imported: without it, versions from 1.32 on send telemetry
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
