"""Datasets and exports of apps in the layouts in which they are distributed."""
