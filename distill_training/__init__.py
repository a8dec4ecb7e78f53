"""Mote's trainer: distills a teacher's reconstruction of a place into a map of a few megabytes."""
