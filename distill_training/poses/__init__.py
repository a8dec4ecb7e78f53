"""Stage 1: the pose of each training frame, given or refined, and the frame and scale of the map.

scene_poses.py      the stage: `find_poses` returns `ScenePoses`
refinement.py       refines given poses of a scene with depth, by features.py, image_pairs.py
                    and pose_adjustment.py
drift_fit.py        the drift between given and adjusted poses
gauge.py            frame and scale of a map from photographs, with known_lengths.py
poses_config.py     settings
"""
