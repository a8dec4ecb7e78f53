"""Settings with which structure from motion of a few photographs takes seconds."""

from distill_training.poses.poses_config import PosesConfig, SfmConfig

QUICK = PosesConfig("sfm", sfm=SfmConfig(max_px=400, max_features=800))
