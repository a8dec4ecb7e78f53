"""Reconstruction from photographs, with a network that predicts the pointmaps of image pairs."""
