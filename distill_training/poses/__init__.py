"""Stage 1: the pose of each training frame, and the frame and scale of the map.

scene_poses.py      the stage: `find_poses` returns `ScenePoses`
depth_agreement.py  checks the conventions of given poses and depths
sfm_poses.py        poses by structure from motion, in the map frame; sfm/ computes them,
                    frame_points.py holds the points that they give
triangulation.py    points triangulated at known poses
refinement.py       refined poses; by measured depth: features.py, image_pairs.py and
                    pose_adjustment.py; by triangulated points: sfm/given_pose_adjustment.py
drift_fit.py        the drift between given and adjusted poses
lenses.py           cameras of frames whose intrinsics may be unknown
gauge.py            frame and scale of a map from photographs, with known_lengths.py
poses_config.py     settings
"""
