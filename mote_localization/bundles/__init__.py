"""Bundles: maps of places that are larger than one student, made of submaps."""

from mote_localization.bundles.bundle_file import (
    NAME_PATTERN,
    Bundle,
    is_bundle,
    read_bundle,
    write_bundle,
)

__all__ = ["NAME_PATTERN", "Bundle", "is_bundle", "read_bundle", "write_bundle"]
