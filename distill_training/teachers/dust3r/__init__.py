"""DUSt3R, the network that looks at pairs of photographs, and what stands around it.

Wang et al., "DUSt3R: Geometric 3D Vision Made Easy", CVPR 2024. Written from the paper and from
reference outputs; takes the published checkpoints as they are.
"""

from distill_training.teachers.dust3r.dust3r_predictor import Dust3r
from distill_training.teachers.dust3r.network import DUSt3R
from distill_training.teachers.dust3r.published_checkpoint import load_checkpoint

__all__ = ["DUSt3R", "Dust3r", "load_checkpoint"]
