"""First guess of all cameras: along the tree of the surest pairs."""

from dataclasses import replace

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree

from distill_training.teachers.pairwise.global_adjustment import Cameras
from distill_training.teachers.pairwise.relative_pose import RelativePoses


def along_tree(relative: RelativePoses, used_p: np.ndarray, cameras: Cameras) -> Cameras:
    """Chain the similarities of the surest pairs, from the image with the most of them on.

    Args:
        relative: What pairs say.
        used_p: Which of them to listen to.
        cameras: What to start from: images that the tree does not reach stay as they are.
    """
    images = len(cameras.t_i3)
    i_p, j_p = relative.i_p[used_p], relative.j_p[used_p]
    cost = relative.residual_p[used_p] / np.log1p(relative.confidence_p[used_p])
    graph = sparse.coo_array((cost.clip(1e-9), (i_p, j_p)), shape=(images, images)).tocsr()
    tree = minimum_spanning_tree(graph)
    branches = np.bincount(np.concatenate(tree.nonzero()), minlength=images)
    order, parents = breadth_first_order(tree, int(branches.argmax()), directed=False)
    number = {pair: p for p, pair in enumerate(zip(relative.i_p, relative.j_p, strict=True))}
    R_i33, t_i3, log_unit_i = (a.copy() for a in (cameras.R_i33, cameras.t_i3, cameras.log_unit_i))
    for image in order[1:]:
        parent = parents[image]
        p = number[min(parent, image), max(parent, image)]
        R, t, scale = relative.R_p33[p], relative.t_p3[p], relative.scale_p[p]
        if parent > image:  # the pair's similarity leads from parent to image
            R, t, scale = R.T, -R.T @ t / scale, 1 / scale
        R_i33[image] = R_i33[parent] @ R
        t_i3[image] = t_i3[parent] + np.exp(log_unit_i[parent]) * R_i33[parent] @ t
        log_unit_i[image] = log_unit_i[parent] + np.log(scale)
    return replace(cameras, R_i33=R_i33, t_i3=t_i3, log_unit_i=log_unit_i)
