"""Helpers of several stages: folders of arrays, file hashes, robust statistics, process ranks."""
