"""Localizes images in a bundle: in the submap of the last pose, or in those that look similar."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import NamedTuple, TypeAlias

import cv2
import numpy as np

from mote_localization.backends import Backend, Chosen, choose_backend
from mote_localization.bundles.bundle_file import Bundle, is_bundle, read_bundle
from mote_localization.bundles.place_index import Similar
from mote_localization.camera import Camera, CanonicalView
from mote_localization.geometry import is_explained, local_coordinates, rotation_angles
from mote_localization.image_features import ImageFeatures, image_features
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

_CANDIDATES = 3  # submaps in which an image without a known place is localized
_SIMILAR = 24  # keyframes that choose them
_MOST_LOADED = 4  # submaps in memory
_TURN_M = 1.0  # m, a turn by a radian is as far as this distance
_HANDOVER = 0.8  # another submap follows when its keyframes are so much nearer
_FAR_M = 3.0  # keyframes and poses that are so far may be another place that looks the same ...
_RIVAL = 0.6  # ... if they are so similar to the image, relative to the most similar one
_MOST_RIVALS = 3  # places of such keyframes that are checked
_SAME_PLACE_M = 0.25  # poses that differ by less are of one place


class _Pose(NamedTuple):
    """A pose in the map frame."""

    T_map_cam: np.ndarray  # (4, 4)
    covariance_66: np.ndarray


class BundleLocalizer:
    """Localizes images in a bundle, like `Localizer` in one map.

    At most four submaps are in memory. A submap that is needed first is loaded then.
    """

    def __init__(
        self,
        bundle: Bundle,
        load: Callable[[MapFile], Backend],
        config: LocalizerConfig = LocalizerConfig(),  # noqa: B008 (frozen)
    ) -> None:
        """Combine a bundle, what loads a map into a backend, and the configuration."""
        self.info = _joined([submap.info for submap in bundle.submaps], bundle.scene)
        self._bundle, self._load, self._config = bundle, load, config
        self._lock = Lock()  # of the loaded submaps
        self._loaded: OrderedDict[int, Localizer] = OrderedDict()  # least recently used first
        self._retired: list[Localizer] = []  # evicted, but perhaps still in use
        self._prepares_search = False
        canonical, stride = self.info.camera, self.info.stride  # those of all submaps
        self._view = lru_cache(MAX_VIEWS)(lambda live: CanonicalView(live, canonical, stride))

    @property
    def config(self) -> LocalizerConfig:
        """The configuration of all submaps."""
        return self._config

    @config.setter
    def config(self, config: LocalizerConfig) -> None:
        with self._lock:
            self._config = config
            for localizer in self._loaded.values():
                localizer.config = config

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
        with self._lock:
            for localizer in self._loaded.values():
                localizer.close()
            self._loaded.clear()
        self._close_retired()

    def _close_retired(self) -> None:
        """Close the submaps that are not in memory any more."""
        with self._lock:
            retired, self._retired = self._retired, []
        for localizer in retired:
            localizer.close()

    def prepare_search(self) -> None:
        """Compute the features of each submap's keyframes in the background when it is loaded."""
        with self._lock:
            self._prepares_search = True
            for localizer in self._loaded.values():
                localizer.prepare_search()

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

        With a last pose, its submap is used, then the one that is next to it; otherwise the three
        submaps whose keyframes look most like the image. Of poses that contradict each other, one
        is right if its place explains the image clearly better than the others; otherwise they
        are ambiguous: the image is lost.

        Arguments and exceptions are those of `Localizer.localize`.
        """
        self._close_retired()
        if tracking:
            found = self._tracked(image_hw3, camera, tracking, others)
            if found:
                return found
        grey_hw = cv2.cvtColor(self._view(camera).warp(image_hw3), cv2.COLOR_RGB2GRAY)
        features = image_features(grey_hw)
        similar = self._bundle.index.most_similar(features.descriptors_md, _SIMILAR)
        numbers = self._candidates(similar)
        answers = {
            number: self._submap(number).localize(
                image_hw3, camera, None, others, search and number == numbers[0]
            )
            for number in numbers
        }
        search_s = answers[numbers[0]].search_s  # also if the answer is that of another submap
        accepted = {n: one for n, one in answers.items() if one.status is Status.LOCALIZED}
        if not accepted:
            most = max(answers.values(), key=lambda one: one.inliers)
            return replace(most, search_s=search_s)
        best = min(accepted, key=lambda n: _deviation(accepted[n]))
        first = replace(accepted[best], search_s=search_s)
        poses = [(best, _pose_of(first))]
        poses += [(n, _pose_of(one)) for n, one in accepted.items() if n != best]
        poses += self._rivals(image_hw3, camera, features, similar, poses[0][1])
        places = _places(poses)
        if len(places) == 1:
            return self._handed_over(first, best)
        chosen = self._best_place(image_hw3, camera, [pose for _, pose in places])
        if chosen is None:
            return self._ambiguous(first, places)
        if chosen == 0:
            return self._handed_over(first, best)
        pose = places[chosen][1]
        found = self._tracked(image_hw3, camera, self.tracking_at(pose.T_map_cam), others)
        if not found or not _agree(_pose_of(found), pose):
            return self._ambiguous(first, places)
        return replace(found, search_s=search_s)

    def _best_place(
        self, image_hw3: np.ndarray, camera: Camera, poses: Sequence[_Pose]
    ) -> int | None:
        """Return which pose explains an image better than each other one; None if none does."""
        covered = int(self._view(camera).covered_hw.sum())
        similar = [
            self._submap(self._nearest(pose.T_map_cam)).similarity(
                image_hw3, camera, pose.T_map_cam
            )
            for pose in poses
        ]
        for n, one in enumerate(similar):
            others = similar[:n] + similar[n + 1 :]
            if all(is_explained_better(one, other, covered) for other in others):
                return n
        return None

    def _rivals(
        self,
        image_hw3: np.ndarray,
        camera: Camera,
        features: ImageFeatures,
        similar: Similar,
        pose: _Pose,
    ) -> Iterator[tuple[int, _Pose]]:
        """Yield submaps, and poses in them, by similar keyframes that are far from a pose."""
        T_k44 = np.array(
            [
                self._bundle.submaps[number].keyframe_poses_k44[keyframe]
                for number, keyframe in zip(similar.submap_n, similar.keyframe_n, strict=True)
            ]
        )
        rival_n = _distances(T_k44, pose.T_map_cam) > _FAR_M
        rival_n &= similar.similarity_n > _RIVAL * similar.similarity_n[0]
        for n in _apart(T_k44, np.flatnonzero(rival_n))[:_MOST_RIVALS]:
            number = int(similar.submap_n[n])
            found = self._submap(number).pose_by_keyframes(
                image_hw3, camera, features, [int(similar.keyframe_n[n])]
            )
            if found:
                yield number, _Pose(found.T_map_cam, found.covariance_66)

    def _tracked(
        self, image_hw3: np.ndarray, camera: Camera, last: Tracking, others: Sequence[RigImage]
    ) -> Localization | None:
        """Return the accepted pose near the last one; None if there is none.

        One far from it may be that of a place that looks the same.
        """
        found = self._submap(last.submap).localize(image_hw3, camera, last, others, search=False)
        number = last.submap
        if not _is_near(found, last):
            distances = self._distances(last.T_map_cam)
            distances[last.submap] = np.inf
            number = int(np.argmin(distances))
            if not np.isfinite(distances[number]):
                return None
            near = self._submap(number).tracking_at(last.T_map_cam)
            found = self._submap(number).localize(image_hw3, camera, near, others, search=False)
        return self._handed_over(found, number) if _is_near(found, last) else None

    def _candidates(self, similar: Similar) -> list[int]:
        """Return the submaps of the keyframes that look most like an image, the best first."""
        scores = np.zeros(len(self._bundle.submaps))
        np.add.at(scores, similar.submap_n, np.maximum(similar.similarity_n, 0) ** 2)
        best = np.argsort(-scores, kind="stable")[:_CANDIDATES]
        return [int(number) for number in best if scores[number] > 0] or [0]

    def _handed_over(self, found: Localization, number: int) -> Localization:
        """Return a pose whose next image is tracked in the submap that is nearest."""
        if found.tracking is None or found.T_map_cam is None:
            return found
        distances = self._distances(found.T_map_cam)
        nearest = int(np.argmin(distances))
        if distances[nearest] >= _HANDOVER * distances[number]:
            return replace(found, tracking=found.tracking._replace(submap=number))
        T_map_cam = found.tracking.T_map_cam
        surface = self._submap(nearest).tracking_at(T_map_cam)._replace(submap=nearest)
        return replace(found, tracking=surface)

    def _ambiguous(self, one: Localization, places: Sequence[tuple[int, _Pose]]) -> Localization:
        """Return that an image is lost, because several places explain it."""
        (first, pose), (second, other) = places[:2]
        apart_m = np.linalg.norm(pose.T_map_cam[:3, 3] - other.T_map_cam[:3, 3])
        names = [self._bundle.submaps[number].name for number in (first, second)]
        text = "two places of " + names[0] if first == second else " and ".join(names)
        reason = f"ambiguous: {text} explain the image, {apart_m:.1f} {self.info.unit} apart"
        return replace(
            one,
            status=Status.LOST,
            reason=reason,
            T_map_cam=None,
            covariance_66=None,
            tracking=None,
            ambiguous=True,
        )

    def _distances(self, T_map_cam: np.ndarray) -> np.ndarray:
        """Return the distance of a camera from the nearest keyframe of each submap, m."""
        return np.array(
            [_distances(one.keyframe_poses_k44, T_map_cam).min() for one in self._bundle.submaps]
        )

    def _nearest(self, T_map_cam: np.ndarray) -> int:
        """Return the submap that has the keyframe nearest to a camera."""
        return int(np.argmin(self._distances(T_map_cam)))

    def _submap(self, number: int) -> Localizer:
        """Return the localizer of a submap; load it if necessary, in place of an unused one."""
        with self._lock:
            if number not in self._loaded:
                map_file = self._bundle.map_file(number)
                localizer = Localizer(map_file, self._load(map_file), self._config)
                if self._prepares_search:
                    localizer.prepare_search()
                self._loaded[number] = localizer
                if len(self._loaded) > _MOST_LOADED:
                    # another thread may still use it: `localize` closes it with its next image
                    self._retired.append(self._loaded.popitem(last=False)[1])
            self._loaded.move_to_end(number)
            return self._loaded[number]


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
    first = choose_backend(bundle.map_file(0), backend, threads)

    def load(map_file: MapFile) -> Backend:
        return choose_backend(map_file, first.name, threads).backend

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


def _deviation(found: Localization) -> float:
    assert found.covariance_66 is not None
    return float(np.trace(found.covariance_66[:3, :3]))


def _pose_of(found: Localization) -> _Pose:
    assert found.T_map_cam is not None and found.covariance_66 is not None
    return _Pose(found.T_map_cam, found.covariance_66)


def _distances(T_k44: np.ndarray, T_map_cam: np.ndarray) -> np.ndarray:
    """Return the distance (k,) of cameras from another one, m; a turn counts as a distance, too."""
    shift_k = np.linalg.norm(T_k44[:, :3, 3] - T_map_cam[:3, 3], axis=1)
    return shift_k + _TURN_M * rotation_angles(T_k44[:, :3, :3], T_map_cam[:3, :3])


def _is_near(found: Localization, last: Tracking) -> bool:
    """Return whether an image has a pose, which is near the last one."""
    following = found.tracking
    return following is not None and bool(
        _distances(following.T_map_cam[None], last.T_map_cam)[0] < _FAR_M
    )


def _apart(T_k44: np.ndarray, order: np.ndarray) -> list[int]:
    """Return those of some cameras, the first ones first, that are far from those before them."""
    chosen: list[int] = []
    for n in order.tolist():
        if not chosen or _distances(T_k44[chosen], T_k44[n]).min() > _FAR_M:
            chosen.append(n)
    return chosen


def _places(poses: Sequence[tuple[int, _Pose]]) -> list[tuple[int, _Pose]]:
    """Return the first ones, with their submaps, of poses that do not agree with each other."""
    places: list[tuple[int, _Pose]] = []
    for number, pose in poses:
        if not any(_agree(pose, other) for _, other in places):
            places.append((number, pose))
    return places


def _agree(one: _Pose, other: _Pose) -> bool:
    """Return whether two poses are of one place: near each other, or explained by covariances."""
    error_6 = local_coordinates(one.T_map_cam, other.T_map_cam)
    if np.linalg.norm(error_6[:3]) + _TURN_M * np.linalg.norm(error_6[3:]) < _SAME_PLACE_M:
        return True
    return is_explained(error_6, one.covariance_66 + other.covariance_66)
