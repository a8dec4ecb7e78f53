"""Divides a place that is too large for one student into submaps, which share one map frame."""
