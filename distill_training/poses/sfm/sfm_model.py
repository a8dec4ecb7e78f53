"""A model: poses of images and the points that they share, read from pycolmap's reconstruction."""

import copy
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pycolmap
from scipy.sparse import coo_array, csr_array

from distill_training.poses.sfm.colmap_camera import image_name, is_calibrated, release
from distill_training.poses.sfm.disk_space import check_free_space
from mote_localization.geometry import invert

_MIN_ERROR_PX = 0.5  # of a feature
_MIN_DETERMINANT = 1e-9  # of a point's information, relative: below it its rays are parallel
_FOCAL_IMAGES = 30  # whose adjustment estimates focal lengths
_MIN_SHARED_POINTS = 15  # that connect two images, as many as a verified pair has


@dataclass(frozen=True)
class Model:
    """Images with poses, in a frame and unit of the model; arrays follow the order of `images`."""

    reconstruction: pycolmap.Reconstruction
    images: np.ndarray  # (n,) numbers of the images in the list that was mapped, ascending
    T_model_cam_n44: np.ndarray
    points_m3: np.ndarray
    # observations: which image sees which point, at which ray
    image_k: np.ndarray  # positions in `images`, ascending
    point_k: np.ndarray  # positions in `points_m3`
    ray_k2: np.ndarray  # x and y at z = 1, camera frame, without distortion
    error_px_m: np.ndarray  # mean reprojection error of each point

    @classmethod
    def of(cls, reconstruction: pycolmap.Reconstruction) -> "Model":
        """Return the model of a reconstruction, whose images have `image_name`s."""
        registered = [one for one in reconstruction.images.values() if one.has_pose]
        registered.sort(key=lambda one: one.name)
        points = reconstruction.points3D
        position = {point_id: k for k, point_id in enumerate(points)}
        image_k, point_k, ray_k2 = [], [], []
        for n, image in enumerate(registered):
            seen = [p for p in image.points2D if p.has_point3D()]
            image_k.append(np.full(len(seen), n))
            point_k.append(np.array([position[p.point3D_id] for p in seen], int))
            pixels = np.array([p.xy for p in seen]).reshape(-1, 2)
            ray_k2.append(image.camera.cam_from_img(pixels) if len(seen) else pixels)
        poses = [np.vstack([one.cam_from_world().matrix(), (0, 0, 0, 1)]) for one in registered]
        return cls(
            reconstruction,
            np.array([int(one.name) for one in registered], int),
            np.array([invert(T) for T in poses]).reshape(-1, 4, 4),
            np.array([point.xyz for point in points.values()]).reshape(-1, 3),
            np.concatenate([np.zeros(0, int), *image_k]),
            np.concatenate([np.zeros(0, int), *point_k]),
            np.concatenate([np.zeros((0, 2)), *ray_k2]),
            np.array([point.error for point in points.values()]),
        )

    @classmethod
    def triangulated(
        cls,
        database: Path,
        poses: Mapping[int, np.ndarray],
        cameras: Mapping[int, pycolmap.Camera],
    ) -> "Model":
        """Return the model that the matches of a database give at known poses.

        Args:
            database: Features and matches.
            poses: T_model_cam (4, 4) of each image to use, by its number.
            cameras: Cameras by pycolmap's number, as they were estimated.
        """
        model = pycolmap.Reconstruction()
        with pycolmap.Database.open(database) as opened:
            for camera in opened.read_all_cameras():
                model.add_camera(cameras.get(camera.camera_id, camera))
            for rig in opened.read_all_rigs():
                model.add_rig(rig)
            images = {image.frame_id: image for image in opened.read_all_images()}
            for frame in opened.read_all_frames():
                image = images[frame.frame_id]
                T_model_cam = poses.get(int(image.name))
                if T_model_cam is not None:
                    frame.rig_from_world = pycolmap.Rigid3d(invert(T_model_cam)[:3])
                    model.add_frame(frame)
                    model.add_image(image)
        options = pycolmap.IncrementalPipelineOptions(extract_colors=False, random_seed=0)
        with tempfile.TemporaryDirectory() as folder:
            found = pycolmap.triangulate_points(model, database, folder, folder, True, options)
        return cls.of(found)

    def write(self, folder: Path) -> None:
        """Write COLMAP's files; the folder exists only when it is complete.

        Raises:
            ReconstructionError: The disk is full.
        """
        partial = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        self.reconstruction.write(partial)
        check_free_space(partial)  # COLMAP does not report that a file could not be written
        os.replace(partial, folder)

    def cameras(self) -> dict[int, pycolmap.Camera]:
        """Return the cameras of the images, by pycolmap's number."""
        used = {self.camera_id_of(n) for n in range(len(self.images))}
        return {number: self.reconstruction.cameras[number] for number in sorted(used)}

    def visible_nm(self) -> csr_array:
        """Return 1 where an image sees a point (n, m)."""
        ones = np.ones(len(self.image_k))
        shape = (len(self.images), len(self.points_m3))
        return coo_array((ones, (self.image_k, self.point_k)), shape=shape).tocsr()

    def covisible_nn(self) -> csr_array:
        """Return the number of points that two images share, 0 where it is small."""
        visible_nm = self.visible_nm()
        shared_nn = (visible_nm @ visible_nm.T).tocsr()
        return shared_nn.multiply(shared_nn >= _MIN_SHARED_POINTS).tocsr()

    def observations_of(self, n: int) -> np.ndarray:
        """Return the positions of the observations of the n-th image."""
        return np.arange(*np.searchsorted(self.image_k, (n, n + 1)))

    def camera_of(self, n: int) -> pycolmap.Camera:
        """Return the working camera of the n-th image, as it was estimated."""
        return self.reconstruction.cameras[self.camera_id_of(n)]

    def camera_id_of(self, n: int) -> int:
        """Return pycolmap's number of the camera of the n-th image."""
        image = self.reconstruction.find_image_with_name(image_name(int(self.images[n])))
        assert image is not None  # the model was made of it
        return image.camera_id

    @cached_property
    def depth_k(self) -> np.ndarray:
        """The depth of the point of each observation, units of the model."""
        T_cam_model = np.array([invert(T) for T in self.T_model_cam_n44]).reshape(-1, 4, 4)
        row_k4 = T_cam_model[self.image_k, 2]
        return (row_k4[:, :3] * self.points_m3[self.point_k]).sum(axis=1) + row_k4[:, 3]

    def median_depth_n(self) -> np.ndarray:
        """Return the median depth of each image's points, units of the model; NaN without one."""
        depths = (self.depth_k[self.observations_of(n)] for n in range(len(self.images)))
        return np.array([np.median(one) if len(one) else np.nan for one in depths])

    @cached_property
    def information_k33(self) -> np.ndarray:
        """The inverse covariance (k, 3, 3) of a point's position that each observation gives.

        Along the ray it is zero. Across the ray, the error is the point's mean reprojection error,
        but at least `_MIN_ERROR_PX`.
        """
        focal_n = np.array([self.camera_of(n).mean_focal_length() for n in range(len(self.images))])
        ray_k3 = self.points_m3[self.point_k] - self.T_model_cam_n44[self.image_k, :3, 3]
        distance_k = np.linalg.norm(ray_k3, axis=1)
        unit_k3 = ray_k3 / distance_k[:, None].clip(np.finfo(float).tiny)
        error_px_k = self.error_px_m[self.point_k].clip(_MIN_ERROR_PX)
        error_k = error_px_k / focal_n[self.image_k] * distance_k
        across_k33 = np.eye(3) - unit_k3[:, :, None] * unit_k3[:, None]
        information_k33: np.ndarray = across_k33 / (error_k**2)[:, None, None]
        return information_k33

    def covariance_m33(self, used_k: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the covariance (m, 3, 3) of each point, from some observations of it alone.

        It is the inverse of the sum of their information (Hartley and Zisserman 2004, section 5.2).

        Args:
            used_k: Bool, the observations to use.

        Returns:
            The covariances, and which points (m,) have none: their rays are parallel.
        """
        information_m33 = np.zeros((len(self.points_m3), 3, 3))
        np.add.at(information_m33, self.point_k[used_k], self.information_k33[used_k])
        scale_m = np.trace(information_m33, axis1=1, axis2=2) / 3
        scale_m[scale_m == 0] = 1
        relative_m33 = information_m33 / scale_m[:, None, None]
        parallel_m = np.linalg.det(relative_m33) < _MIN_DETERMINANT
        relative_m33[parallel_m] = np.eye(3)
        return np.linalg.inv(relative_m33) / scale_m[:, None, None], parallel_m

    @cached_property
    def depth_sigma_k(self) -> np.ndarray:
        """The expected error of each observation's depth, units of the model.

        Infinite where the rays of its point are parallel.
        """
        covariance_m33, parallel_m = self.covariance_m33(np.ones(len(self.point_k), bool))
        axis_k3 = self.T_model_cam_n44[self.image_k, :3, 2]
        variance_k = np.einsum("ki,kij,kj->k", axis_k3, covariance_m33[self.point_k], axis_k3)
        return np.where(parallel_m[self.point_k], np.inf, np.sqrt(variance_k))

    def part(self, members: np.ndarray) -> "Model":
        """Return a model of some of the images: positions in `images`."""
        kept = {int(self.images[k]) for k in members}
        smaller = copy.deepcopy(self.reconstruction)
        for image in list(smaller.images.values()):
            if image.has_pose and int(image.name) not in kept:
                smaller.deregister_frame(image.frame_id)
        return Model.of(smaller)

    def adjusted(
        self,
        points: Iterable[int] | None = None,
        positions: Mapping[int, np.ndarray] | None = None,
        sigma: float = 1.0,
    ) -> "Model":
        """Return the model after a bundle adjustment; calibrated cameras stay as they are.

        Args:
            points: Identifiers of the points to use; None: all.
            positions: Expected position (3,) of images by their number; None: nothing is expected.
            sigma: Standard deviation of the expected positions along each axis.
        """
        changed = copy.deepcopy(self.reconstruction)
        if points is not None:
            for unused in changed.point3D_ids() - set(points):
                changed.delete_point3D(unused)
        config, options = _adjustment(changed)
        if positions is None:
            adjuster = pycolmap.create_default_bundle_adjuster(options, config, changed)
        else:
            adjuster = pycolmap.create_pose_prior_bundle_adjuster(
                options, _prior_options(), config, _priors(changed, positions, sigma), changed
            )
        adjuster.solve()
        changed.update_point_3d_errors()
        return Model.of(changed)


def estimated_focal_lengths(model: Model) -> dict[int, float]:
    """Return the focal length that the images give for each camera, px, also for calibrated ones.

    A bundle adjustment of some of the images with free focal lengths and radial distortion.

    Returns:
        Focal lengths by pycolmap's number of the camera.
    """
    chosen = np.unique(np.linspace(0, len(model.images) - 1, _FOCAL_IMAGES).astype(int))
    free = model.part(chosen).reconstruction  # a copy
    for camera in free.cameras.values():
        release(camera)
    config, options = _adjustment(free)
    pycolmap.create_default_bundle_adjuster(options, config, free).solve()
    used = {image.camera_id for image in free.images.values() if image.has_pose}
    return {camera_id: free.cameras[camera_id].mean_focal_length() for camera_id in used}


def _adjustment(
    reconstruction: pycolmap.Reconstruction,
) -> tuple[pycolmap.BundleAdjustmentConfig, pycolmap.BundleAdjustmentOptions]:
    """Return what a bundle adjustment changes, calibrated cameras excepted, and how."""
    config = pycolmap.BundleAdjustmentConfig()
    for image_id in reconstruction.reg_image_ids():
        config.add_image(image_id)
    for camera_id, camera in reconstruction.cameras.items():
        if is_calibrated(camera):
            config.set_constant_cam_intrinsics(camera_id)
    options = pycolmap.BundleAdjustmentOptions(print_summary=False)
    options.ceres.loss_function_type = pycolmap.LossFunctionType.HUBER
    options.ceres.solver_options.function_tolerance = 1e-5
    return config, options


def _prior_options() -> pycolmap.PosePriorBundleAdjustmentOptions:
    options = pycolmap.PosePriorBundleAdjustmentOptions()
    options.ceres.prior_position_loss_function_type = pycolmap.LossFunctionType.CAUCHY
    options.alignment_ransac.random_seed = 0
    return options


def _priors(
    reconstruction: pycolmap.Reconstruction, positions: Mapping[int, np.ndarray], sigma: float
) -> list[pycolmap.PosePrior]:
    """Return the priors of the registered images that have an expected position."""
    return [
        pycolmap.PosePrior(
            corr_data_id=image.data_id,
            position=positions[int(image.name)],
            position_covariance=sigma**2 * np.eye(3),
            coordinate_system=pycolmap.PosePriorCoordinateSystem.CARTESIAN,
        )
        for image in reconstruction.images.values()
        if image.has_pose and int(image.name) in positions
    ]
