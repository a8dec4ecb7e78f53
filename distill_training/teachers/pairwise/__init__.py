"""Photographs to a reconstruction by a network that predicts pointmaps of image pairs."""
