"""DUSt3R: a network that predicts the pointmaps of an image pair.

Wang et al., "DUSt3R: Geometric 3D Vision Made Easy", CVPR 2024. Implemented from the paper and from
reference outputs; reads the published checkpoints.
"""

from distill_training.teachers.dust3r.dust3r_predictor import Dust3r
from distill_training.teachers.dust3r.network import DUSt3R
from distill_training.teachers.dust3r.published_checkpoint import load_checkpoint

__all__ = ["DUSt3R", "Dust3r", "load_checkpoint"]
