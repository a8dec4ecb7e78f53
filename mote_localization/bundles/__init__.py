"""Bundles: maps of places that are larger than one student, made of submaps."""

from mote_localization.bundles.bundle_file import Bundle, is_bundle, read_bundle, write_bundle

__all__ = ["Bundle", "is_bundle", "read_bundle", "write_bundle"]
