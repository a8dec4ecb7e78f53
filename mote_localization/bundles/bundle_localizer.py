"""Localizes images in a bundle: in the submap of the last pose, or in those that look similar."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np

from mote_localization.backends import Backend, Chosen, choose_backend
from mote_localization.backends.deferred import DeferredBackend
from mote_localization.bundles.bundle_file import Bundle, is_bundle, read_bundle
from mote_localization.bundles.place_index import Similar
from mote_localization.bundles.place_poses import (
    FAR_M,
    Pose,
    are_of_one_place,
    different,
    distances,
    grouped,
)
from mote_localization.bundles.submap_cache import SubmapCache
from mote_localization.camera import Camera, CanonicalView
from mote_localization.errors import BackendError
from mote_localization.geometry import covariance_at, invert
from mote_localization.image_features import ImageFeatures, image_features
from mote_localization.keyframe_search import DescribedKeyframe, describe
from mote_localization.localizer import (
    MAX_VIEWS,
    Localization,
    Localizer,
    RigImage,
    Status,
    Tracking,
)
from mote_localization.map_file import MapFile, read_map
from mote_localization.map_info import MapInfo
from mote_localization.pose_gates import LocalizerConfig
from mote_localization.view_similarity import is_explained_better

_CANDIDATES = 3  # submaps whose students localize an image that keyframes do not
_SIMILAR = 24  # keyframes that choose submaps and places
_RIVAL = 0.6  # similarity of keyframes that may show the image, relative to the most similar one
_SURE = 0.25  # similarity of the most similar one below which all may show the image
_MOST_PLACES = 5  # of such keyframes
_MOST_KEYFRAMES = 3  # of each place
_MOST_LOADED = 6  # submaps in memory, with their networks if these were used
_MOST_DESCRIBED = 60  # keyframes whose features are in memory, 0.3 MB each
_DESCRIBED_AHEAD = 6  # keyframes near the camera, whose features a search needs
_HANDOVER = 0.8  # another submap follows when its keyframes are so much nearer
_AHEAD_M = 2.0  # distance to the keyframes of another submap from which it is loaded


class BundleLocalizer:
    """Localizes images in a bundle, like `Localizer` in one map.

    The submaps that were used last stay in memory. One that is needed first is loaded then, or in
    the background when the camera comes near it.
    """

    def __init__(
        self,
        bundle: Bundle,
        load: Callable[[MapFile], Backend],
        config: LocalizerConfig = LocalizerConfig(),  # noqa: B008 (frozen)
    ) -> None:
        """Combine a bundle, what loads a map into a backend, and the configuration."""
        self.info = _joined([submap.info for submap in bundle.submaps], bundle.scene)
        self.config = config  # of all submaps
        self._bundle, self._load = bundle, load
        self._submaps = SubmapCache(self._loaded, _MOST_LOADED)
        canonical, stride = self.info.camera, self.info.stride  # those of all submaps
        self._view = lru_cache(MAX_VIEWS)(lambda live: CanonicalView(live, canonical, stride))
        self._described = lru_cache(_MOST_DESCRIBED)(self._describe)
        self._worker = ThreadPoolExecutor(1, "mote_describe")
        self._describing: Future[None] | None = None

    @property
    def keyframe_count(self) -> int:
        """Number of keyframes of all submaps."""
        return sum(len(submap.keyframe_poses_k44) for submap in self._bundle.submaps)

    @property
    def uses_keyframes(self) -> bool:
        """Whether the points of its matches are those of keyframes."""
        return True

    def map_infos(self) -> Iterator[MapInfo]:
        """Return the description of each submap, with its keyframes.

        Raises:
            MapFileError: The bundle was changed since it was read.
        """
        return self._bundle.map_infos()

    def close(self) -> None:
        """End the threads; the localizer cannot be used afterwards."""
        self._worker.shutdown(cancel_futures=True)
        self._submaps.close()

    def prepare_search(self) -> None:
        """Do nothing: the index finds keyframes, and their features are computed when needed."""

    def check_image(self, image_hw3: np.ndarray, camera: Camera) -> None:
        """Check that `localize` can use an image, see `Localizer.check_image`."""
        self._view(camera).check(image_hw3)

    def tracking_at(self, T_map_cam: np.ndarray) -> Tracking:
        """Return what `localize` tracks from where a camera may be, see `Localizer.tracking_at`."""
        number = self._nearest(T_map_cam)
        return self._submap(number).tracking_at(T_map_cam)._replace(submap=number)

    def localize(
        self,
        image_hw3: np.ndarray,
        camera: Camera,
        tracking: Tracking | None = None,
        others: Sequence[RigImage] = (),
        search: bool = True,
    ) -> Localization:
        """Return the pose at which an image was taken, or why it is lost.

        With a last pose, its submap is used, then the one that is next to it, then keyframes near
        it that look like the image. Otherwise, keyframes anywhere that look like it give poses;
        where they give none, or one and look little like it, the students of the three submaps that
        have most of them do, too. Of poses that contradict each other, one is right if its place
        explains the image clearly better than the others; if there is none, they are ambiguous: the
        image is lost.

        Arguments and exceptions are those of `Localizer.localize`. Without `search`, an image is
        lost if it has no pose near the last one: another place may look the same. One thread at a
        time may localize.
        """
        self._submaps.close_retired()
        started = time.perf_counter()
        rig = [RigImage(image_hw3, camera, np.eye(4), "the first camera"), *others]
        found = self._tracked(rig, tracking) if tracking else None
        if not found and tracking and tracking.verify and not search:
            found = self._tracked(rig, tracking._replace(verify=False))
        if found:
            return _timed(found, started)
        if not search:
            return self._not_searched(rig[0], started)
        search_started = time.perf_counter()
        found = self._found(rig, tracking)
        return _timed(found, started, time.perf_counter() - search_started)

    def _found(self, rig: Sequence[RigImage], last: Tracking | None) -> Localization:
        """Return the pose of the first camera near the last one, or else anywhere."""
        features = [image_features(self._grey(one)) for one in rig]
        best = max(range(len(rig)), key=lambda n: len(features[n].pixels_m2))
        shown = rig[best]  # shows most
        similar = self._bundle.index.most_similar(features[best].descriptors_md, _SIMILAR)
        if last:
            found = self._found_near(rig, last, shown, features[best], similar)
            if found:
                return found
        places = different(self._searched(shown, features[best], similar))
        answers: list[Localization] = []
        unsure = len(places) < 2 and similar.similarity_n[0] <= _SURE
        if not places or unsure:  # the students know places from farther away than keyframes
            answers = self._by_students(rig, self._candidates(similar))
            accepted = [_pose_of(one) for one in answers if one.status is Status.LOCALIZED]
            places = different([*places, *accepted])
        if not places:
            return max(answers, key=lambda one: one.inliers)
        chosen = self._best_place(shown, places) if len(places) > 1 else 0
        found = self._localized_at(rig, places[chosen or 0])
        return found if chosen is not None else self._ambiguous(found, places)

    def _found_near(
        self,
        rig: Sequence[RigImage],
        last: Tracking,
        shown: RigImage,
        features: ImageFeatures,
        similar: Similar,
    ) -> Localization | None:
        """Return the pose near the last one by keyframes near it; None if there is none.

        A last pose that was to be verified is tracked after all, where no keyframe shows another.
        """
        near_n = distances(self._poses_of(similar), last.T_map_cam @ shown.T_first_cam) < FAR_M
        near = Similar(*(values_n[near_n] for values_n in similar))
        for pose in self._searched(shown, features, near):
            found = self._localized_at(rig, pose)
            if _is_near(found, last):
                return found
        return self._tracked(rig, last._replace(verify=False)) if last.verify else None

    def _poses_of(self, similar: Similar) -> np.ndarray:
        """Return the poses (n, 4, 4) of keyframes."""
        poses = [
            self._bundle.submaps[number].keyframe_poses_k44[keyframe]
            for number, keyframe in zip(similar.submap_n, similar.keyframe_n, strict=True)
        ]
        return np.array(poses).reshape(-1, 4, 4)

    def _grey(self, one: RigImage) -> np.ndarray:
        return cv2.cvtColor(self._view(one.camera).warp(one.image_hw3), cv2.COLOR_RGB2GRAY)

    def _searched(self, image: RigImage, features: ImageFeatures, similar: Similar) -> list[Pose]:
        """Return the poses of the first camera at the places of keyframes similar to an image."""
        if not len(similar.similarity_n):
            return []
        best = similar.similarity_n[0]
        least = _RIVAL * best if best > _SURE else -np.inf
        count = int((similar.similarity_n > least).sum())
        chosen = Similar(*(values_n[:count] for values_n in similar))
        owners = chosen.submap_n, chosen.keyframe_n
        places = grouped(self._poses_of(chosen), *owners, _MOST_PLACES, _MOST_KEYFRAMES)
        poses = []
        for number, keyframes in places:
            described = {keyframe: self._described(number, keyframe) for keyframe in keyframes}
            found = self._submap(number).pose_by_keyframes(
                image.image_hw3, image.camera, features, described
            )
            if found:
                T_map_first = found.T_map_cam @ invert(image.T_first_cam)
                lever_3 = T_map_first[:3, 3] - found.T_map_cam[:3, 3]
                covariance_66 = covariance_at(found.covariance_66, lever_3)
                poses.append(Pose(T_map_first, covariance_66, number))
        return poses

    def _by_students(self, rig: Sequence[RigImage], numbers: Sequence[int]) -> list[Localization]:
        """Return the answers of some submaps' students; one that cannot run is left out.

        Raises:
            BackendError: None can run.
        """
        answers, failed = [], None
        for number in numbers:
            try:
                answers.append(self._localized_in(number, rig, None))
            except BackendError as error:
                failed = error
        if failed and not answers:
            raise failed
        return answers

    def _best_place(self, image: RigImage, poses: Sequence[Pose]) -> int | None:
        """Return which pose of the first camera explains an image better than each other one."""
        covered = int(self._view(image.camera).covered_hw.sum())
        similar = []
        for pose in poses:
            T_map_cam = pose.T_map_cam @ image.T_first_cam
            nearest = self._submap(self._nearest(T_map_cam))
            similar.append(nearest.similarity_near(image.image_hw3, image.camera, T_map_cam))
        for n, one in enumerate(similar):
            others = similar[:n] + similar[n + 1 :]
            if all(is_explained_better(one, other, covered) for other in others):
                return n
        return None

    def _localized_at(self, rig: Sequence[RigImage], pose: Pose) -> Localization:
        """Return the pose near another one, by all that the nearest submap knows."""
        near = self.tracking_at(pose.T_map_cam)
        found = self._localized_in(near.submap, rig, near)
        if found.status is Status.LOST:
            return found
        if not are_of_one_place(_pose_of(found), pose):
            return _lost(found, "the keyframes that show the image disagree about its pose")
        return self._handed_over(found, near.submap)

    def _not_searched(self, image: RigImage, started: float) -> Localization:
        """Return that an image is lost, without the points of any submap."""
        cells_hw, nothing = self.info.cells_hw, np.zeros(0)
        return Localization(
            status=Status.LOST,
            reason="the last pose is not known, and the image was not searched",
            T_map_cam=None,
            covariance_66=None,
            tracking=None,
            contradicted=False,
            inliers=0,
            cells=0,
            reprojection_px=float("nan"),
            keyframe_distance=0.0,
            points_hw3=np.full((*cells_hw, 3), np.nan, np.float32),
            sigma_hw=np.full(cells_hw, np.nan, np.float32),
            covered_hw=self._view(image.camera).covered_hw,
            image_hw3=self._view(image.camera).warp(image.image_hw3),
            pixels_n2=np.zeros((0, 2)),
            match_points_n3=np.zeros((0, 3)),
            match_sigma_n=nothing,
            agree_n=nothing.astype(bool),
            seconds={"remap": time.perf_counter() - started, "network": 0.0, "pose": 0.0},
            search_s=0.0,
        )

    def _tracked(self, rig: Sequence[RigImage], last: Tracking) -> Localization | None:
        """Return the accepted pose near the last one; None if there is none.

        One far from it may be that of a place that looks the same.
        """
        number = last.submap
        found = self._localized_in(number, rig, None if last.verify else last)
        if not _is_near(found, last):
            distances_s = self._distances(last.T_map_cam)
            distances_s[last.submap] = np.inf
            number = int(np.argmin(distances_s))
            if not np.isfinite(distances_s[number]):
                return None
            near = None if last.verify else self._submap(number).tracking_at(last.T_map_cam)
            found = self._localized_in(number, rig, near)
        return self._handed_over(found, number) if _is_near(found, last) else None

    def _localized_in(
        self, number: int, rig: Sequence[RigImage], tracking: Tracking | None
    ) -> Localization:
        """Return the answer of a submap, without its search."""
        first, *others = rig
        found = self._submap(number).localize(
            first.image_hw3, first.camera, tracking, others, search=False
        )
        following = found.tracking._replace(submap=number) if found.tracking else None
        return replace(found, tracking=following)

    def _candidates(self, similar: Similar) -> list[int]:
        """Return the submaps of the keyframes that look most like an image, the best first."""
        scores = np.zeros(len(self._bundle.submaps))
        np.add.at(scores, similar.submap_n, np.maximum(similar.similarity_n, 1e-3) ** 2)
        best = np.argsort(-scores, kind="stable")[:_CANDIDATES]
        return [int(number) for number in best if scores[number] > 0]

    def _handed_over(self, found: Localization, number: int) -> Localization:
        """Return a pose whose next image is tracked in the submap that is nearest.

        What is needed if the camera moves on or is lost is prepared in the background: another
        submap that is near, and the features of the nearest keyframes.
        """
        if found.tracking is None or found.T_map_cam is None:
            return found
        if self._describing is None or self._describing.done():
            self._describing = self._worker.submit(self._describe_near, number, found.T_map_cam)
        distances_s = self._distances(found.T_map_cam)
        nearest = int(np.argmin(distances_s))
        if distances_s[nearest] < _HANDOVER * distances_s[number]:
            surface = self._submap(nearest).tracking_at(found.tracking.T_map_cam)
            return replace(found, tracking=surface._replace(submap=nearest))
        distances_s[number] = np.inf
        following = int(np.argmin(distances_s))
        if distances_s[following] < _AHEAD_M:
            self._submaps.load_ahead(following)
        return replace(found, tracking=found.tracking._replace(submap=number))

    def _ambiguous(self, found: Localization, places: Sequence[Pose]) -> Localization:
        """Return that an image is lost, because several places explain it."""
        one, other = places[:2]
        apart_m = np.linalg.norm(one.T_map_cam[:3, 3] - other.T_map_cam[:3, 3])
        names = [self._bundle.submaps[pose.submap].name for pose in (one, other)]
        text = " and ".join(names)
        if one.submap == other.submap:
            text = f"two places of {names[0]}"
        reason = f"ambiguous: {text} explain the image, {apart_m:.1f} {self.info.unit} apart"
        return replace(_lost(found, reason), ambiguous=True)

    def _distances(self, T_map_cam: np.ndarray) -> np.ndarray:
        """Return the distance of a camera from the nearest keyframe of each submap, m."""
        return np.array(
            [distances(one.keyframe_poses_k44, T_map_cam).min() for one in self._bundle.submaps]
        )

    def _nearest(self, T_map_cam: np.ndarray) -> int:
        """Return the submap that has the keyframe nearest to a camera."""
        return int(np.argmin(self._distances(T_map_cam)))

    def _submap(self, number: int) -> Localizer:
        """Return the localizer of a submap, with the present configuration."""
        localizer = self._submaps[number]
        localizer.config = self.config
        return localizer

    def _loaded(self, number: int) -> Localizer:
        map_file = self._bundle.map_file(number)
        network = DeferredBackend(partial(self._load, map_file))
        return Localizer(map_file, network, self.config)

    def _describe_near(self, number: int, T_map_cam: np.ndarray) -> None:
        """Compute the features of the keyframes of a submap that are nearest to a camera."""
        poses_k44 = self._bundle.submaps[number].keyframe_poses_k44
        for keyframe in np.argsort(distances(poses_k44, T_map_cam))[:_DESCRIBED_AHEAD].tolist():
            self._described(number, keyframe)

    def _describe(self, number: int, keyframe: int) -> DescribedKeyframe:
        info = self._submap(number).info
        return describe(info.keyframes[keyframe], info.camera, info.stride)


AnyLocalizer: TypeAlias = Localizer | BundleLocalizer


def load_localizer(
    path: Path | str,
    backend: str = "onnxruntime",
    threads: int = 0,
    config: LocalizerConfig = LocalizerConfig(),  # noqa: B008 (frozen)
) -> tuple[AnyLocalizer, Chosen]:
    """Read a map or a bundle and load it into a backend; return that, too.

    The first submap of a bundle decides which backend runs the others.

    Raises:
        MapFileError: The map or the bundle cannot be used.
        BackendError: The backend cannot run it.
    """
    if not is_bundle(path):
        map_file = read_map(path)
        chosen = choose_backend(map_file, backend, threads)
        return Localizer(map_file, chosen.backend, config), chosen
    bundle = read_bundle(path)
    first_file = bundle.map_file(0)
    first = choose_backend(first_file, backend, threads)
    unused = {first_file.path: first.backend}

    def load(map_file: MapFile) -> Backend:
        present = unused.pop(map_file.path, None)
        return present or choose_backend(map_file, first.name, threads).backend

    return BundleLocalizer(bundle, load, config), first


def open_localizer(
    path: Path | str, backend: str = "onnxruntime", threads: int = 0
) -> AnyLocalizer:
    """Read a map or a bundle and load it into a backend; see `load_localizer`."""
    return load_localizer(path, backend, threads)[0]


def _joined(infos: Sequence[MapInfo], scene: str) -> MapInfo:
    """Return the description of a place from those of its submaps."""
    return replace(
        infos[0],
        scene=scene,
        bounds_min=tuple(np.min([info.bounds_min for info in infos], axis=0).tolist()),
        bounds_max=tuple(np.max([info.bounds_max for info in infos], axis=0).tolist()),
        keyframes=(),
        self_test=None,
        validation=(),
    )


def _pose_of(found: Localization) -> Pose:
    """Return the accepted pose of a submap that its tracking names."""
    assert found.T_map_cam is not None and found.covariance_66 is not None and found.tracking
    return Pose(found.T_map_cam, found.covariance_66, found.tracking.submap)


def _lost(found: Localization, reason: str) -> Localization:
    """Return a result without its pose."""
    lost = Status.LOST
    return replace(
        found, status=lost, reason=reason, T_map_cam=None, covariance_66=None, tracking=None
    )


def _timed(found: Localization, started: float, search_s: float = 0.0) -> Localization:
    """Return a result with the time of all that was computed for it."""
    others_s = sum(value for step, value in found.seconds.items() if step != "pose")
    pose_s = time.perf_counter() - started - others_s
    return replace(found, seconds=found.seconds | {"pose": pose_s}, search_s=search_s)


def _is_near(found: Localization, last: Tracking) -> bool:
    """Return whether an image has a pose, which is near the last one."""
    following = found.tracking
    return following is not None and bool(
        distances(following.T_map_cam[None], last.T_map_cam)[0] < FAR_M
    )
