"""Global adjustment of poses, scales and focal lengths: Gauss-Newton on robust 3-D distances."""

import logging
from dataclasses import dataclass, replace

import cv2
import numpy as np
from scipy import sparse
from scipy.sparse.linalg import cg

from distill_training.common.robust import NORMAL, cauchy_weight, row_medians
from distill_training.teachers.pairwise.observations import Observations
from mote_localization.errors import ReconstructionError
from mote_localization.geometry import rigid, skew

_log = logging.getLogger(__name__)
_STEPS = 30
_CONVERGED = 1e-5  # largest change of any unknown (rad, log scale, map unit) at convergence
_DAMPING = 1e-6  # fraction of the diagonal
_MAX_STEP = 1.0  # of a log unit
_TUNING = 1.5  # scale of the Cauchy weight over the median residual
_CORRELATED = 12  # number of cells of a pointmap whose errors are correlated
_CHUNK = 256  # directed pairs linearized at once
_POSE_AND_UNIT = 7  # unknowns of an image: rotation, position, log unit
_PRECISION = 1e-6  # relative residual of the conjugate gradient solution
_BOOTSTRAP_SAMPLES = 48  # enough for a standard deviation with 10 % error


@dataclass(frozen=True)
class Cameras:
    """Pose, unit of depth and focal length of each image.

    A point of image i at depth z (units of the image) on ray r lies at
    R_i exp(log_unit_i) z r + t_i in the map. Rays are those of the initial focal length, with x and
    y multiplied by exp(log_focal_ratio) of the image's lens.
    """

    R_i33: np.ndarray  # camera to map
    t_i3: np.ndarray
    log_unit_i: np.ndarray  # log of map units per unit of the image
    lens_i: np.ndarray  # lens of each image, int
    log_focal_ratio_l: np.ndarray  # log of initial over true focal length of each lens

    @classmethod
    def at_origin(cls, lens_i: np.ndarray, log_focal_ratio_l: np.ndarray) -> "Cameras":
        """Return cameras with identity poses and units of 1."""
        images = len(lens_i)
        R_i33 = np.tile(np.eye(3), (images, 1, 1))
        return cls(R_i33, np.zeros((images, 3)), np.zeros(images), lens_i, log_focal_ratio_l)

    def pose(self, image: int) -> np.ndarray:
        """Return T_map_cam (4, 4) of an image."""
        return rigid(self.R_i33[image], self.t_i3[image])

    def focal_factors(self) -> list[float]:
        """Return the estimated over the initial focal length of each image."""
        return np.exp(-self.log_focal_ratio_l[self.lens_i]).tolist()

    def rays(self, rays_in3: np.ndarray) -> np.ndarray:
        """Return the rays (i, n, 3) with the estimated focal lengths, given the initial ones."""
        ratio_i = np.exp(self.log_focal_ratio_l[self.lens_i])
        return rays_in3 * np.stack([ratio_i, ratio_i, np.ones_like(ratio_i)], axis=-1)[:, None]


@dataclass(frozen=True)
class Adjustment:
    """Result of the global adjustment."""

    cameras: Cameras
    residual_e: np.ndarray  # median 3-D distance over the depth; NaN where the pair is not used
    unit_sigma_i: np.ndarray  # standard deviation of each image's log unit


@dataclass(frozen=True)
class _System:
    """Normal equations at some cameras, as one block for each directed pair."""

    columns_ek: np.ndarray  # indices of the unknowns of each directed pair
    H_ekk: np.ndarray
    b_ek: np.ndarray
    residual_e: np.ndarray  # median distance over the depth
    prior_H: np.ndarray  # diagonal, all unknowns
    prior_b: np.ndarray
    lenses: int  # number of focal lengths, which are the last unknowns

    @property
    def b(self) -> np.ndarray:
        """Right-hand side (n,) of all unknowns."""
        return self.sum_right(self.b_ek) + self.prior_b

    def solve(self, right_nd: np.ndarray) -> np.ndarray:
        """Return the solutions (n, d) for right-hand sides (n, d).

        Uses conjugate gradients with a block-Jacobi preconditioner, one block per image. A direct
        factorization fills in when many images overlap.

        Raises:
            ReconstructionError: The conjugate gradients do not converge.
        """
        count, width = len(self.prior_H), self.columns_ek.shape[1]
        rows = np.repeat(self.columns_ek, width, axis=1).ravel()
        columns = np.tile(self.columns_ek, (1, width)).ravel()
        H = sparse.coo_array((self.H_ekk.ravel(), (rows, columns)), shape=(count, count))
        diagonal = H.diagonal()
        damping = _DAMPING * (diagonal + diagonal.max(initial=1e-9) * _DAMPING)
        damped = (H + sparse.diags_array(damping + self.prior_H)).tocsr()
        preconditioner = self._block_jacobi(damped)
        solutions = []
        for b in right_nd.T:
            solution, unfinished = cg(
                damped, b, rtol=_PRECISION, maxiter=10 * count, M=preconditioner
            )
            if unfinished:
                raise ReconstructionError(
                    "positions and scales of the cameras could not be computed: too few pairs of "
                    "images overlap; take more photographs from viewpoints in between"
                )
            solutions.append(solution)
        return np.stack(solutions, axis=1)

    def sum_right(self, b_ek: np.ndarray) -> np.ndarray:
        """Return the sum (n,) over the right-hand sides of all directed pairs."""
        return np.bincount(self.columns_ek.ravel(), b_ek.ravel(), minlength=len(self.prior_H))

    def _block_jacobi(self, H: sparse.csr_array) -> sparse.csr_array:
        """Return the inverse of the diagonal blocks of H: one per image, and each focal length."""
        k = (self.columns_ek.shape[1] - 1) // 2
        images = (len(self.prior_H) - self.lenses) // k
        index = np.arange(images * k).reshape(images, k)
        rows, columns = np.repeat(index, k, axis=1), np.tile(index, (1, k))
        blocks = np.linalg.inv(H[rows.ravel(), columns.ravel()].reshape(images, k, k))
        rest = np.arange(images * k, len(self.prior_H))
        values = np.concatenate([blocks.ravel(), 1 / H.diagonal()[rest]])
        ends = (np.concatenate([rows.ravel(), rest]), np.concatenate([columns.ravel(), rest]))
        return sparse.csr_array((values, ends), shape=H.shape)


class AdjustmentProblem:
    """Adjusts scales, and poses and focal lengths where these are unknown.

    Minimizes the confidence-weighted Cauchy loss of 3-D distances, over directed pairs (i, j) and
    cells of j. Each distance is between the predicted point and the point at the depth of image j
    in the pose of camera j. The objective is that of DUSt3R (CVPR 2024, eq. 5), but distances are
    in units of image i: in metres, noise would shrink the scale, since points of a smaller scene
    are closer together.
    """

    def __init__(
        self,
        observations: Observations,
        log_scales_e: np.ndarray,
        depth_in: np.ndarray,
        used_e: np.ndarray,
        poses_known: bool,
        log_focal_ratio_sigma_l: np.ndarray,
    ) -> None:
        """Prepare the data, constant over the steps of the adjustment.

        Args:
            observations: Pair predictions.
            log_scales_e: Log of the first image's units per pair unit.
            depth_in: Depth of the cells in the unit of their image.
            used_e: Directed pairs to use.
            poses_known: Adjust only scales and focal lengths.
            log_focal_ratio_sigma_l: Standard deviation of each lens's log focal ratio; 0 = exact.
        """
        o = observations
        self._rays_in3, self._used_e = o.rays_in3, used_e
        self._first, self._second = o.first_e[used_e], o.second_e[used_e]
        self._predicted_en3 = o.other_en3[used_e] * np.exp(log_scales_e[used_e])[:, None, None]
        depth_en = depth_in[self._second]
        valid_en = np.isfinite(depth_en) & (o.other_weight_en[used_e] > 0)
        self._depth_en = np.where(valid_en, depth_en, 0)
        self._distance_en = np.maximum(np.linalg.norm(self._predicted_en3, axis=-1), 1e-6)
        confidence_en = np.where(valid_en, o.other_weight_en[used_e], np.nan)
        self._weight_en = np.nan_to_num(confidence_en / np.nanmean(confidence_en))
        self._poses_known = poses_known
        self._free_l = log_focal_ratio_sigma_l > 0
        self._focal_information_l = np.maximum(log_focal_ratio_sigma_l, 1e-6) ** -2
        self._per_image = 1 if poses_known else _POSE_AND_UNIT

    def solve(self, cameras: Cameras) -> Adjustment:
        """Return the adjustment that starts from the given cameras."""
        initial_l = cameras.log_focal_ratio_l
        median = np.inf  # no robust weights in the first step: the cameras may be far off
        for _ in range(_STEPS):
            system = self.linearize(cameras, initial_l, median)
            change = system.solve(system.b[:, None])[:, 0]
            cameras = self.retract(cameras, change)
            converged = np.abs(change).max() < _CONVERGED and np.isfinite(median)
            median = float(np.nanmedian(system.residual_e))
            if converged:
                break
        else:
            _log.warning("the adjustment of the cameras has not converged after %d steps", _STEPS)
        system = self.linearize(cameras, initial_l, median)
        residual_e = np.full(len(self._used_e), np.nan)
        residual_e[self._used_e] = system.residual_e
        return Adjustment(cameras, residual_e, self.unit_sigma(system))

    def linearize(self, cameras: Cameras, initial_l: np.ndarray, median: float) -> _System:
        """Return the normal equations at some cameras.

        `initial_l` is the mean of the prior of the log focal ratios. `median`, the median relative
        residual, scales the robust weights; inf = no robust weights.
        """
        parts = [
            self._linearize(cameras, slice(start, start + _CHUNK), median)
            for start in range(0, len(self._first), _CHUNK)
        ]
        H_ekk, b_ek, residual_e = (np.concatenate(part) for part in zip(*parts, strict=True))
        images, lenses, k = len(self._rays_in3), len(initial_l), self._per_image
        columns_ek = np.concatenate(
            [
                self._first[:, None] * k + np.arange(k),
                self._second[:, None] * k + np.arange(k),
                images * k + cameras.lens_i[self._second][:, None],
            ],
            axis=1,
        )
        prior_H, prior_b = np.zeros((2, images * k + lenses))
        if not self._poses_known:  # gauge freedom: the first image is fixed
            fixed = self._first.min(initial=0)
            prior_H[fixed * k : (fixed + 1) * k] = 1e3 * np.abs(H_ekk).max()
        prior_H[images * k :] = self._focal_information_l
        prior_b[images * k :] = self._focal_information_l * (initial_l - cameras.log_focal_ratio_l)
        return _System(columns_ek, H_ekk, b_ek, residual_e, prior_H, prior_b, lenses)

    def _linearize(
        self, cameras: Cameras, chunk: slice, median: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return H, b and the median relative residual of a chunk of directed pairs."""
        first, second = self._first[chunk], self._second[chunk]
        R_first, R_second = cameras.R_i33[first], cameras.R_i33[second]
        ratio = np.exp(cameras.log_unit_i[second] - cameras.log_unit_i[first])
        into_first = np.swapaxes(R_first, 1, 2) * np.exp(-cameras.log_unit_i[first])[:, None, None]
        scaled_R = ratio[:, None, None] * np.swapaxes(R_first, 1, 2) @ R_second
        own_en3 = cameras.rays(self._rays_in3)[second] * self._depth_en[chunk][..., None]
        rotated_en3 = own_en3 @ np.swapaxes(scaled_R, 1, 2)
        offset_e3 = (into_first @ (cameras.t_i3[second] - cameras.t_i3[first])[..., None])[..., 0]
        expected_en3 = rotated_en3 + offset_e3[:, None]
        error_en3 = self._predicted_en3[chunk] - expected_en3
        relative_en = np.linalg.norm(error_en3, axis=-1) / self._distance_en[chunk]
        if np.isfinite(median):
            sigma = NORMAL * median / np.sqrt(3)
            robust_en = cauchy_weight(relative_en, _TUNING * median) / (sigma**2 * _CORRELATED)
        else:
            robust_en = np.ones_like(relative_en)
        weight_en = self._weight_en[chunk] * robust_en / self._distance_en[chunk] ** 2

        lateral_en3 = own_en3 * (1, 1, 0)  # derivative with respect to the log focal ratio
        units = [-expected_en3[..., None], rotated_en3[..., None]]
        lens = (lateral_en3 @ np.swapaxes(scaled_R, 1, 2))[..., None]
        if self._poses_known:
            J = np.concatenate([*units, lens], axis=-1)
        else:
            to_first = np.broadcast_to(into_first[:, None], (*own_en3.shape, 3))
            own_rotation = -scaled_R[:, None] @ skew(own_en3)
            first_image = [skew(expected_en3), -to_first, units[0]]
            J = np.concatenate([*first_image, own_rotation, to_first, units[1], lens], axis=-1)
        J_emk = J.reshape(len(J), -1, J.shape[-1])
        weighted = np.swapaxes((J * weight_en[..., None, None]).reshape(J_emk.shape), 1, 2)
        b_ek = (weighted @ error_en3.reshape(len(J), -1, 1))[..., 0]
        valid_en = np.where(self._weight_en[chunk] > 0, relative_en, np.nan)
        return weighted @ J_emk, b_ek, row_medians(valid_en)

    def retract(self, cameras: Cameras, change: np.ndarray) -> Cameras:
        """Return the cameras after a change of the unknowns."""
        images = len(cameras.t_i3)
        of_images = change[: images * self._per_image].reshape(images, self._per_image)
        step = of_images[:, -1].clip(-_MAX_STEP, _MAX_STEP)
        changed = replace(
            cameras,
            log_unit_i=cameras.log_unit_i + step,
            log_focal_ratio_l=cameras.log_focal_ratio_l
            + change[images * self._per_image :] * self._free_l,
        )
        if self._poses_known:
            return changed
        R_change = np.array([cv2.Rodrigues(omega)[0] for omega in of_images[:, :3]])
        return replace(
            changed, R_i33=cameras.R_i33 @ R_change, t_i3=cameras.t_i3 + of_images[:, 3:6]
        )

    def unit_sigma(self, system: _System) -> np.ndarray:
        """Return the standard deviation of each image's log unit.

        Estimated by the wild bootstrap (Wu 1986): the residuals of each directed pair get a random
        sign, which assumes nothing on the correlation of errors inside of one pointmap. Where poses
        are adjusted too, the common scale is a gauge freedom and does not count. Infinite for
        images without pairs.
        """
        images, k = len(self._rays_in3), self._per_image
        signs_de = np.random.default_rng(0).choice(
            (-1.0, 1.0), (_BOOTSTRAP_SAMPLES, len(system.b_ek))
        )
        right_nd = np.stack(
            [system.sum_right(signs_e[:, None] * system.b_ek) for signs_e in signs_de], axis=1
        )
        units_id = system.solve(right_nd)[: images * k].reshape(images, k, -1)[:, -1]
        paired = np.zeros(images, bool)
        paired[self._first] = paired[self._second] = True
        if not self._poses_known:
            units_id = units_id - units_id[paired].mean(axis=0)
        return np.where(paired, np.sqrt((units_id**2).mean(axis=1)), np.inf)
