"""Adjusts cameras and scales until all pairs agree: Gauss-Newton on robust 3-D distances."""

import logging
from dataclasses import dataclass, replace

import cv2
import numpy as np
from scipy import sparse
from scipy.sparse.linalg import cg

from distill_training.common.robust import cauchy_weight, row_medians
from distill_training.teachers.pairwise.observations import Observations
from mote_localization.errors import ReconstructionError
from mote_localization.geometry import skew

_log = logging.getLogger(__name__)
_STEPS = 30
_ENOUGH = 1e-5  # largest change of rotation (rad) and log scale at which a solution stands
_DAMPING = 1e-6  # of the diagonal
_LARGEST_STEP = 1.0  # of a log unit
_TUNING = 1.5  # medians at which a Cauchy weight has fallen to one half
_CORRELATED = 12  # cells of a pointmap that err alike
_CHUNK = 256  # directed pairs linearized together
_POSE_AND_UNIT = 7  # unknowns of an image: rotation, position, log unit
_PRECISION = 1e-6  # of a solution, relative
_DRAWS = 48  # of errors, to measure the deviation of the outcome: to a tenth of it


@dataclass(frozen=True)
class Cameras:
    """Where the images were taken, and how large a unit of their depth is.

    A point of image i at depth z of its unit on ray r lies at R_i exp(log_unit_i) z r + t_i; the
    rays are those assumed at first, their x and y times exp(log_spread) of the image's lens.
    """

    R_i33: np.ndarray  # camera to map
    t_i3: np.ndarray
    log_unit_i: np.ndarray
    lens_i: np.ndarray  # which lens an image was taken with, int
    log_spread_l: np.ndarray  # per lens: log of assumed over true focal length

    @classmethod
    def unplaced(cls, lens_i: np.ndarray, log_spread_l: np.ndarray) -> "Cameras":
        """Return cameras that all stand in one place, with units of 1."""
        images = len(lens_i)
        R_i33 = np.tile(np.eye(3), (images, 1, 1))
        return cls(R_i33, np.zeros((images, 3)), np.zeros(images), lens_i, log_spread_l)

    def pose(self, image: int) -> np.ndarray:
        """Return T_map_cam (4, 4) of an image."""
        T = np.eye(4)
        T[:3, :3], T[:3, 3] = self.R_i33[image], self.t_i3[image]
        return T

    def focal_factors(self) -> list[float]:
        """Return, for each image, its focal length over the one assumed at first."""
        return np.exp(-self.log_spread_l[self.lens_i]).tolist()

    def rays(self, rays_in3: np.ndarray) -> np.ndarray:
        """Return the rays (i, n, 3) of the lenses as they are now."""
        spread_i = np.exp(self.log_spread_l[self.lens_i])
        return rays_in3 * np.stack([spread_i, spread_i, np.ones_like(spread_i)], axis=-1)[:, None]


@dataclass(frozen=True)
class Adjusted:
    """The cameras on which all pairs agree best."""

    cameras: Cameras
    # median 3-D distance of each directed pair over the depth; NaN where it is not used
    residual_e: np.ndarray
    unit_sigma_i: np.ndarray  # standard deviation of each image's log unit


def adjust(
    observations: Observations,
    log_scales_e: np.ndarray,
    depth_in: np.ndarray,
    cameras: Cameras,
    used_e: np.ndarray,
    poses_known: bool,
    spread_sigma_l: np.ndarray,
) -> Adjusted:
    """Adjust scales, and poses and focal lengths where they are not known.

    Minimizes, over directed pairs (i, j) and cells of j, confidence times Cauchy's log-likelihood
    of the 3-D distance between what the pair says and where j's camera and depth put the cell. It
    is measured in units of image i: in metres, noise would pull the scale down, since smaller
    clouds lie closer (the objective is that of DUSt3R, CVPR 2024, eq. 5, with that difference).

    Args:
        observations: What pairs say.
        log_scales_e: From pair units to the first image's.
        depth_in: Depth of the cells in their image's unit.
        cameras: Where to start.
        used_e: Directed pairs to listen to.
        poses_known: Only scales (and focal lengths) are adjusted.
        spread_sigma_l: How well each lens's focal length is known (log, 1 sigma); 0: exactly.
    """
    problem = _Problem(observations, log_scales_e, depth_in, used_e, poses_known, spread_sigma_l)
    first_spread_l = cameras.log_spread_l
    median = np.inf  # the first step is not robust: everything may be far off
    for _ in range(_STEPS):
        system = problem.linearize(cameras, first_spread_l, median)
        change = system.solve()
        cameras = problem.moved(cameras, change)
        converged = np.abs(change).max() < _ENOUGH and np.isfinite(median)
        median = float(np.nanmedian(system.residual_e))
        if converged:
            break
    else:
        _log.warning("the cameras still move after %d steps of adjustment", _STEPS)
    system = problem.linearize(cameras, first_spread_l, median)
    residual_e = np.full(len(used_e), np.nan)
    residual_e[used_e] = system.residual_e
    return Adjusted(cameras, residual_e, problem.unit_sigma(system))


@dataclass(frozen=True)
class _System:
    """The normal equations at some cameras, directed pair by directed pair."""

    columns_ek: np.ndarray  # which unknowns a directed pair has a say in
    H_ekk: np.ndarray
    b_ek: np.ndarray
    residual_e: np.ndarray
    prior_H: np.ndarray  # diagonal, of all unknowns
    prior_b: np.ndarray
    lenses: int  # of the unknowns, the last ones

    def solve(self, b_draws_nd: np.ndarray | None = None) -> np.ndarray:
        """Return the change of all unknowns, or that which other right-hand sides (n, d) give.

        By conjugate gradients, each image's own block inverted beforehand: direct factorization
        fills in as places are seen from more and more sides.

        Raises:
            ReconstructionError: It does not converge.
        """
        count, width = len(self.prior_H), self.columns_ek.shape[1]
        rows = np.repeat(self.columns_ek, width, axis=1).ravel()
        columns = np.tile(self.columns_ek, (1, width)).ravel()
        H = sparse.coo_array((self.H_ekk.ravel(), (rows, columns)), shape=(count, count))
        diagonal = H.diagonal()
        damping = _DAMPING * (diagonal + diagonal.max(initial=1e-9) * _DAMPING)
        damped = (H + sparse.diags_array(damping + self.prior_H)).tocsr()
        inverse = self._inverse_of_blocks(damped)
        b_nd = (self.total(self.b_ek) + self.prior_b)[:, None] if b_draws_nd is None else b_draws_nd
        solutions = []
        for b in b_nd.T:
            solution, steps = cg(damped, b, rtol=_PRECISION, maxiter=10 * count, M=inverse)
            if steps:
                raise ReconstructionError(
                    "the cameras' positions and scales could not be found: what the pairs of "
                    "images say hangs together too loosely; take more photographs in between"
                )
            solutions.append(solution)
        return solutions[0] if b_draws_nd is None else np.stack(solutions, axis=1)

    def total(self, b_ek: np.ndarray) -> np.ndarray:
        """Return the sum over directed pairs of what each says of its unknowns."""
        return np.bincount(self.columns_ek.ravel(), b_ek.ravel(), minlength=len(self.prior_H))

    def _inverse_of_blocks(self, H: sparse.csr_array) -> sparse.csr_array:
        """Return the inverse of H with all but the images' own blocks, and the lenses, left out."""
        k = (self.columns_ek.shape[1] - 1) // 2
        images = (len(self.prior_H) - self.lenses) // k
        at = np.arange(images * k).reshape(images, k)
        rows, columns = np.repeat(at, k, axis=1), np.tile(at, (1, k))
        blocks = np.linalg.inv(H[rows.ravel(), columns.ravel()].reshape(images, k, k))
        rest = np.arange(images * k, len(self.prior_H))
        values = np.concatenate([blocks.ravel(), 1 / H.diagonal()[rest]])
        ends = (np.concatenate([rows.ravel(), rest]), np.concatenate([columns.ravel(), rest]))
        return sparse.csr_array((values, ends), shape=H.shape)


class _Problem:
    """What stays the same from step to step."""

    def __init__(
        self,
        observations: Observations,
        log_scales_e: np.ndarray,
        depth_in: np.ndarray,
        used_e: np.ndarray,
        poses_known: bool,
        spread_sigma_l: np.ndarray,
    ) -> None:
        o = observations
        self._rays_in3 = o.rays_in3
        self._first, self._second = o.first_e[used_e], o.second_e[used_e]
        self._said_en3 = o.other_en3[used_e] * np.exp(log_scales_e[used_e])[:, None, None]
        depth_en = depth_in[self._second]
        seen_en = np.isfinite(depth_en) & (o.other_weight_en[used_e] > 0)
        self._depth_en = np.where(seen_en, depth_en, 0)
        self._distance_en = np.maximum(np.linalg.norm(self._said_en3, axis=-1), 1e-6)
        confidence_en = np.where(seen_en, o.other_weight_en[used_e], np.nan)
        self._weight_en = np.nan_to_num(confidence_en / np.nanmean(confidence_en))
        self._poses_known = poses_known
        self._free_l = spread_sigma_l > 0
        self._known_l = np.maximum(spread_sigma_l, 1e-6) ** -2
        self._per_image = 1 if poses_known else _POSE_AND_UNIT

    def linearize(self, cameras: Cameras, first_spread_l: np.ndarray, median: float) -> _System:
        """Return the normal equations; residuals of far more than the median count little."""
        parts = [
            self._linearize(cameras, slice(start, start + _CHUNK), median)
            for start in range(0, len(self._first), _CHUNK)
        ]
        H_ekk, b_ek, residual_e = (np.concatenate(part) for part in zip(*parts, strict=True))
        images, lenses, k = len(self._rays_in3), len(first_spread_l), self._per_image
        columns_ek = np.concatenate(
            [
                self._first[:, None] * k + np.arange(k),
                self._second[:, None] * k + np.arange(k),
                images * k + cameras.lens_i[self._second][:, None],
            ],
            axis=1,
        )
        prior_H, prior_b = np.zeros((2, images * k + lenses))
        if not self._poses_known:  # the first image stays: all together may move as they like
            stays = self._first.min(initial=0)
            prior_H[stays * k : (stays + 1) * k] = 1e3 * np.abs(H_ekk).max()
        prior_H[images * k :] = self._known_l
        prior_b[images * k :] = self._known_l * (first_spread_l - cameras.log_spread_l)
        return _System(columns_ek, H_ekk, b_ek, residual_e, prior_H, prior_b, lenses)

    def _linearize(
        self, cameras: Cameras, chunk: slice, median: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return H, b and the median relative residual of some directed pairs."""
        first, second = self._first[chunk], self._second[chunk]
        R_first, R_second = cameras.R_i33[first], cameras.R_i33[second]
        ratio = np.exp(cameras.log_unit_i[second] - cameras.log_unit_i[first])
        into_first = np.swapaxes(R_first, 1, 2) * np.exp(-cameras.log_unit_i[first])[:, None, None]
        turn = ratio[:, None, None] * np.swapaxes(R_first, 1, 2) @ R_second
        own_en3 = cameras.rays(self._rays_in3)[second] * self._depth_en[chunk][..., None]
        seen_en3 = own_en3 @ np.swapaxes(turn, 1, 2)
        shift_e3 = (into_first @ (cameras.t_i3[second] - cameras.t_i3[first])[..., None])[..., 0]
        expected_en3 = seen_en3 + shift_e3[:, None]
        error_en3 = self._said_en3[chunk] - expected_en3
        relative_en = np.linalg.norm(error_en3, axis=-1) / self._distance_en[chunk]
        if np.isfinite(median):
            sigma = 1.4826 * median / np.sqrt(3)
            robust_en = cauchy_weight(relative_en, _TUNING * median) / (sigma**2 * _CORRELATED)
        else:
            robust_en = np.ones_like(relative_en)
        weight_en = self._weight_en[chunk] * robust_en / self._distance_en[chunk] ** 2

        across_en3 = own_en3 * (1, 1, 0)  # what a change of the focal length moves
        units = [-expected_en3[..., None], seen_en3[..., None]]
        lens = (across_en3 @ np.swapaxes(turn, 1, 2))[..., None]
        if self._poses_known:
            J = np.concatenate([*units, lens], axis=-1)
        else:
            to_first = np.broadcast_to(into_first[:, None], (*own_en3.shape, 3))
            J = np.concatenate(
                [
                    skew(expected_en3),
                    -to_first,
                    units[0],
                    -turn[:, None] @ skew(own_en3),
                    to_first,
                    units[1],
                    lens,
                ],
                axis=-1,
            )
        J_emk = J.reshape(len(J), -1, J.shape[-1])
        weighted = np.swapaxes((J * weight_en[..., None, None]).reshape(J_emk.shape), 1, 2)
        b_ek = (weighted @ error_en3.reshape(len(J), -1, 1))[..., 0]
        seen = np.where(self._weight_en[chunk] > 0, relative_en, np.nan)
        return weighted @ J_emk, b_ek, row_medians(seen)

    def moved(self, cameras: Cameras, change: np.ndarray) -> Cameras:
        """Return the cameras after a step."""
        images = len(cameras.t_i3)
        of_images = change[: images * self._per_image].reshape(images, self._per_image)
        step = of_images[:, -1].clip(-_LARGEST_STEP, _LARGEST_STEP)
        moved = replace(
            cameras,
            log_unit_i=cameras.log_unit_i + step,
            log_spread_l=cameras.log_spread_l + change[images * self._per_image :] * self._free_l,
        )
        if self._poses_known:
            return moved
        turns = np.array([cv2.Rodrigues(omega)[0] for omega in of_images[:, :3]])
        return replace(moved, R_i33=cameras.R_i33 @ turns, t_i3=cameras.t_i3 + of_images[:, 3:6])

    def unit_sigma(self, system: _System) -> np.ndarray:
        """Return the standard deviation of each image's log unit.

        From how far directed pairs pull apart, each with its sign drawn at random: that needs no
        assumption on how alike the errors of one pointmap are (the wild bootstrap: Wu 1986). Where
        poses are adjusted too, all units together are as they like. Infinite for an image without
        pairs.
        """
        images, k = len(self._rays_in3), self._per_image
        signs_de = np.random.default_rng(0).choice((-1.0, 1.0), (_DRAWS, len(system.b_ek)))
        draws_nd = np.stack(
            [system.total(signs_e[:, None] * system.b_ek) for signs_e in signs_de], axis=1
        )
        units_id = system.solve(draws_nd)[: images * k].reshape(images, k, -1)[:, -1]
        paired = np.zeros(images, bool)
        paired[self._first] = paired[self._second] = True
        if not self._poses_known:
            units_id = units_id - units_id[paired].mean(axis=0)
        return np.where(paired, np.sqrt((units_id**2).mean(axis=1)), np.inf)
