"""Chooses the plane in which camera positions are drawn."""

import numpy as np


def view_from_above(poses: np.ndarray, unit: str = "m") -> tuple[np.ndarray, tuple[str, str], str]:
    """Return map directions (2, 3) to the right and upward in the figure, labels, a description.

    Maps do not store the vertical. Cameras are usually held upright, so the mean of the upward axes
    of their poses (n, 4, 4) estimates it. The view is along the map axis within 35 degrees of it,
    if there is one. Otherwise it shows the plane of most camera motion.
    """
    up = -poses[:, :3, 1].mean(0)
    axis = int(np.abs(up).argmax())
    if np.abs(up[axis]) > np.cos(np.radians(35)) * np.linalg.norm(up):
        upward = np.sign(up[axis]) * np.eye(3)[axis]
        right = np.eye(3)[1 if axis == 0 else 0]
        rows = np.stack([right, np.cross(upward, right)])
        names = [("-" if row.sum() < 0 else "") + "xyz"[np.abs(row).argmax()] for row in rows]
        sign = "+" if up[axis] > 0 else "−"
        view = f"seen from above, the map's {sign}{'xyz'[axis]} axis towards the reader"
        labels = [f"{name.replace('-', '−')} ({unit})" for name in names]
        return rows, (labels[0], labels[1]), view
    centred = poses[:, :3, 3] - poses[:, :3, 3].mean(0)
    rows = np.linalg.svd(centred, full_matrices=True)[2][:2]
    view = (
        "seen across the plane of most motion (its principal axes), because no map axis is vertical"
    )
    return rows, (f"first principal axis ({unit})", f"second principal axis ({unit})"), view
