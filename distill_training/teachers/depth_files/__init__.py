"""The teacher `files`: depth that another network wrote, aligned with the poses and fused.

depth_folder.py    reads the folder, which is not trusted
depth_scales.py    the scale of each image's depth
depth_fusion.py    fuses the depth of neighbouring images
from_files.py      the teacher: `reconstruct`, and `poses_of_files`
"""
