"""Initial poses and scales: relative poses chained along a spanning tree of the best pairs."""

from dataclasses import replace

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree

from distill_training.teachers.pairwise.global_adjustment import Cameras
from distill_training.teachers.pairwise.relative_pose import RelativePoses


def initialize_along_spanning_tree(
    relative: RelativePoses, used_p: np.ndarray, cameras: Cameras
) -> Cameras:
    """Chain relative poses along a minimum spanning tree, from its image with the most branches.

    The cost of a pair is its residual over the log of its confidence.

    Args:
        relative: Relative pose of each pair.
        used_p: Pairs to use.
        cameras: Initial cameras; images outside of the tree keep theirs.
    """
    images = len(cameras.t_i3)
    i_p, j_p = relative.i_p[used_p], relative.j_p[used_p]
    cost = relative.residual_p[used_p] / np.log1p(relative.confidence_p[used_p])
    graph = sparse.coo_array((cost.clip(1e-9), (i_p, j_p)), shape=(images, images)).tocsr()
    tree = minimum_spanning_tree(graph)
    branches = np.bincount(np.concatenate(tree.nonzero()), minlength=images)
    order, parents = breadth_first_order(tree, int(branches.argmax()), directed=False)
    index_of = {pair: p for p, pair in enumerate(zip(relative.i_p, relative.j_p, strict=True))}
    R_i33, t_i3, log_unit_i = (a.copy() for a in (cameras.R_i33, cameras.t_i3, cameras.log_unit_i))
    for image in order[1:]:
        parent = parents[image]
        p = index_of[min(parent, image), max(parent, image)]
        R, t, scale = relative.R_p33[p], relative.t_p3[p], relative.scale_p[p]
        if parent > image:  # the pair is (image, parent): invert its similarity
            R, t, scale = R.T, -R.T @ t / scale, 1 / scale
        R_i33[image] = R_i33[parent] @ R
        t_i3[image] = t_i3[parent] + np.exp(log_unit_i[parent]) * R_i33[parent] @ t
        log_unit_i[image] = log_unit_i[parent] + np.log(scale)
    return replace(cameras, R_i33=R_i33, t_i3=t_i3, log_unit_i=log_unit_i)
