"""Teachers: each looks at a scene and gives a Reconstruction.

    rgbd.py          measured depth and poses; on demand the poses are first made consistent:
                     consistent_poses.py, by features.py and pose_adjustment.py
    photographs.py   photographs, a network that looks at pairs of them, alignment
    choice.py        which of them, by the command line

On the way from photographs to a Reconstruction: a `PairPredictor` (dust3r/, or simulated.py, its
stand-in) encodes images, pairs.py chooses pairs, predictions.py keeps what is said of them,
alignment.py brings it to one frame, fusion.py to one pointmap an image, gauge.py to metres.
"""
