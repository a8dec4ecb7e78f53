"""Stage 2: a teacher takes a scene and its poses and makes a Reconstruction.

rgbd.py                 from measured depth
pairwise/photographs.py from photographs, with a network that predicts pointmaps of pairs
dust3r/                 that network: DUSt3R
depth_files/            from depth that another network wrote
simulated.py            a simulated network, to test the alignment of pairs
teacher_options.py      the part of a command line that chooses a teacher
teacher_config.py       settings
"""
