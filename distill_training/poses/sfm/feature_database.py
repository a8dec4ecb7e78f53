"""COLMAP's database of features and matches, written image by image and pair by pair.

An interrupted run resumes: what the database holds is not computed again.
"""

import logging
import math
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pycolmap
from scipy.cluster.vq import kmeans2

from distill_training.poses.image_pairs import Pair
from distill_training.poses.poses_config import SfmConfig
from distill_training.poses.sfm.colmap_camera import image_name, to_colmap
from distill_training.poses.sfm.disk_space import check_free_space
from distill_training.poses.sfm.sfm_images import SfmImage, WorkingView
from mote_localization.camera import Camera
from mote_localization.errors import ImageError, SceneError
from mote_localization.progress import busy, progress_bar, track

_log = logging.getLogger(__name__)
_BORDER_PX = 17  # around pixels outside the field of view of the lens; no features there
_IMAGES_AT_ONCE = 32  # in one call; an interrupted run repeats at most these
_PAIRS_AT_ONCE = 200  # matched in one call; an interrupted run repeats at most these
_BYTES_PER_FEATURE, _BYTES_PER_MATCH = 256, 16  # in the database, with half as much as reserve
_MIN_FEATURES = 50  # of a usable image: a pair needs 15 inliers
_WORDS = 64  # of the vocabulary of the image descriptors
_TRAINING_FEATURES = 20_000  # that the vocabulary is trained with
_FEATURES_PER_IMAGE = 500  # that an image descriptor uses
# of COLMAP's database, besides the two-view geometries; a referenced table before its users
_MAPPED_TABLES = "cameras rigs rig_sensors frames frame_data images pose_priors keypoints".split()


@dataclass(frozen=True)
class TwoView:
    """The relative pose of a pair of images, from their matches alone."""

    inliers: int
    R_second_first: np.ndarray  # (3, 3)


def is_damaged(path: Path) -> bool:
    """Return whether a file is no complete database of SQLite; one that is missing is not damaged.

    Every page is read. The content of features and matches is not checked.
    """
    if not path.exists():
        return False
    try:
        with closing(sqlite3.connect(path)) as database:
            return database.execute("PRAGMA quick_check(1)").fetchone() != ("ok",)
    except sqlite3.OperationalError:  # as where another process writes it
        return False
    except sqlite3.DatabaseError:
        return True


class FeatureDatabase:
    """Features and verified matches of images, which are numbered by their position in the list."""

    def __init__(self, path: Path, images: Sequence[SfmImage], config: SfmConfig) -> None:
        """Create the database, or resume with an existing one of the same images.

        Args:
            path: File of the database.
            images: The images.
            config: Kind and number of features.
        """
        self.path, self.images, self._config = path, images, config
        path.parent.mkdir(parents=True, exist_ok=True)
        with pycolmap.Database.open(path) as database:
            if database.num_images() == len(images):
                return
            database.clear_all_tables()
            with pycolmap.DatabaseTransaction(database):
                self._write_images(database)

    def _write_images(self, database: pycolmap.Database) -> None:
        rigs: dict[int, tuple[int, int]] = {}
        for index, image in enumerate(self.images):
            if image.lens not in rigs:
                camera = to_colmap(image.working, image.known)
                camera.camera_id = database.write_camera(camera)
                rig = pycolmap.Rig()
                rig.add_ref_sensor(camera.sensor_id)
                rigs[image.lens] = (camera.camera_id, database.write_rig(rig))
            camera_id, rig_id = rigs[image.lens]
            # Plain names: a frame's name may contain spaces, which separate the names of pairs.
            written = pycolmap.Image(name=image_name(index), camera_id=camera_id)
            written.image_id = database.write_image(written)
            frame = pycolmap.Frame()
            frame.rig_id = rig_id
            frame.add_data_id(written.data_id)
            database.write_frame(frame)

    def extract(self) -> dict[int, str]:
        """Find the features of each image that has none yet.

        Returns:
            The reason for each image that cannot be used: it cannot be read, or has few features.
        """
        unusable: dict[int, str] = {}
        options = pycolmap.FeatureExtractionOptions(use_gpu=False, num_threads=_threads())
        options.sift.max_num_features = self._config.max_features
        options.sift.peak_threshold = self._config.peak_threshold
        with pycolmap.Database.open(self.path) as database:
            ids = self._image_ids(database)
            missing = [i for i, id_ in enumerate(ids) if not database.exists_keypoints(id_)]
        with progress_bar() as bar:
            task = bar.add_task("features", total=len(missing))
            for start in range(0, len(missing), _IMAGES_AT_ONCE):
                some = missing[start : start + _IMAGES_AT_ONCE]
                most = len(some) * self._config.max_features * _BYTES_PER_FEATURE
                check_free_space(self.path.parent, most)
                with tempfile.TemporaryDirectory() as folder:
                    unusable |= self._extract(some, Path(folder), options)
                bar.advance(task, len(some))
        with pycolmap.Database.open(self.path) as database:
            for i, id_ in enumerate(ids):
                count = database.num_keypoints_for_image(id_)
                if i not in unusable and count < _MIN_FEATURES:
                    unusable[i] = (
                        f"found {count} features, expected {_MIN_FEATURES} or more: the image is "
                        "blurred, dark or shows no texture"
                    )
        return unusable

    def _extract(
        self, indices: Sequence[int], folder: Path, options: pycolmap.FeatureExtractionOptions
    ) -> dict[int, str]:
        """Find the features of some images, and return why others cannot be used."""
        unusable, names = {}, []
        masks = any(self.images[i].known and any(self.images[i].live.distortion) for i in indices)
        for i in indices:
            image = self.images[i]
            try:
                view = _view(image.live, image.working, image.known)
                grey_hw = view.warp(image.frame.image())
            except (SceneError, ImageError) as error:
                _log.warning("frame %s is left out: %s", image.frame.name, error)
                unusable[i] = str(error)
                continue
            _write_pgm(folder / image_name(i), grey_hw)
            if masks:  # COLMAP wants them of all images or of none
                mask_hw = _away_from_border(view.covered_hw)
                _write_pgm(folder / f"{image_name(i)}.png", mask_hw)  # the name that COLMAP expects
            names.append(image_name(i))
        if names:
            reader = pycolmap.ImageReaderOptions(mask_path=folder if masks else "")
            pycolmap.extract_features(
                self.path,
                folder,
                names,
                reader_options=reader,
                extraction_options=options,
            )
        return unusable

    def image_descriptors(self) -> np.ndarray:
        """Return a unit vector (n, d) float32 of each image, with a large product where similar.

        VLAD of SIFT features with a vocabulary of these images (Jegou et al. 2010; intra-normalized
        as in Arandjelovic and Zisserman 2013). It needs no download.
        """
        rng = np.random.default_rng(0)
        with pycolmap.Database.open(self.path) as database:
            ids = self._image_ids(database)
            count = min(_FEATURES_PER_IMAGE, 1 + _TRAINING_FEATURES // len(ids))
            training = np.concatenate([_some_features(database, i, count, rng) for i in ids])
            if len(training) < _WORDS:
                return np.zeros((len(ids), 1), np.float32)
            with busy("vocabulary"):
                words_wd, _ = kmeans2(training, _WORDS, iter=10, minit="++", seed=0)
            words_wd = words_wd.astype(np.float32)
            features = (_some_features(database, i, _FEATURES_PER_IMAGE, rng) for i in ids)
            described = track(features, "similarity", len(ids))
            return np.stack([_vlad(features_nd, words_wd) for features_nd in described])

    def match(self, pairs: Sequence[Pair]) -> None:
        """Match the features of pairs, and verify the matches by two-view geometry.

        Pairs that the database holds are not matched again.
        """
        with pycolmap.Database.open(self.path) as database:
            ids = self._image_ids(database)
            missing = [
                (i, j) for i, j in pairs if not database.exists_two_view_geometry(ids[i], ids[j])
            ]
        options = pycolmap.FeatureMatchingOptions(use_gpu=False)
        options.num_threads = _threads()
        verification = pycolmap.TwoViewGeometryOptions(compute_relative_pose=True)
        verification.ransac.random_seed = 0
        with progress_bar() as bar, tempfile.TemporaryDirectory() as folder:
            task = bar.add_task("match", total=len(missing))
            listed = pycolmap.ImportedPairingOptions(match_list_path=Path(folder) / "pairs.txt")
            for start in range(0, len(missing), _PAIRS_AT_ONCE):
                some = missing[start : start + _PAIRS_AT_ONCE]
                most = len(some) * self._config.max_features * _BYTES_PER_MATCH
                check_free_space(self.path.parent, most)
                lines = (f"{image_name(i)} {image_name(j)}\n" for i, j in some)
                listed.match_list_path.write_text("".join(lines))
                pycolmap.match_image_pairs(self.path, options, listed, verification)
                bar.advance(task, len(some))

    def two_view_geometries(self) -> dict[Pair, TwoView]:
        """Return the relative pose of each verified pair."""
        return {
            pair: TwoView(len(one.inlier_matches), one.cam2_from_cam1.rotation.matrix())
            for pair, one in self._geometries()
            if one.cam2_from_cam1 is not None
        }

    def keypoints(self) -> list[np.ndarray]:
        """Return the pixels (n, 2) of each image's features, COLMAP's convention."""
        with pycolmap.Database.open(self.path) as database:
            return [
                np.array(database.read_keypoints(id_), np.float64)[:, :2]
                if database.exists_keypoints(id_)
                else np.zeros((0, 2))
                for id_ in self._image_ids(database)
            ]

    def verified_matches(self) -> dict[Pair, np.ndarray]:
        """Return the features (k, 2) of the first and second image that match, of each pair."""
        return {
            pair: np.array(one.inlier_matches, int)
            for pair, one in self._geometries()
            if len(one.inlier_matches)
        }

    def _geometries(self) -> Iterator[tuple[Pair, pycolmap.TwoViewGeometry]]:
        """Yield the pairs that were matched, with their two-view geometry."""
        with pycolmap.Database.open(self.path) as database:
            index = {id_: i for i, id_ in enumerate(self._image_ids(database))}
            for pair_id, geometry in zip(*database.read_two_view_geometries(), strict=True):
                i, j = (index[id_] for id_ in pycolmap.pair_id_to_image_pair(pair_id))
                yield (i, j), geometry

    def copy_with(self, path: Path, pairs: Iterable[Pair]) -> None:
        """Write what mappers need into another database: keypoints, and the matches of some pairs.

        Descriptors, which are most of the database, are left out.
        """
        # In a folder of its own: SQLite has further files beside a database.
        partial = path.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        check_free_space(partial, self.path.stat().st_size)
        with pycolmap.Database.open(self.path) as database:
            ids = self._image_ids(database)
        kept = ((pycolmap.image_pair_to_pair_id(ids[i], ids[j]),) for i, j in pairs)
        pycolmap.Database.open(partial / path.name).close()  # creates the tables
        # Closed, not only committed: an open connection keeps content in another file.
        with closing(sqlite3.connect(partial / path.name)) as target:
            target.execute("ATTACH ? AS source", (str(self.path),))
            with target:
                for table in _MAPPED_TABLES:
                    target.execute(f"INSERT INTO {table} SELECT * FROM source.{table}")
                target.execute("CREATE TEMP TABLE kept (pair_id INTEGER PRIMARY KEY)")
                target.executemany("INSERT INTO kept VALUES (?)", kept)
                target.execute(
                    "INSERT INTO two_view_geometries "
                    "SELECT * FROM source.two_view_geometries WHERE pair_id IN kept"
                )
        os.replace(partial / path.name, path)
        shutil.rmtree(partial)

    def _image_ids(self, database: pycolmap.Database) -> list[int]:
        """Return COLMAP's number of each image."""
        return [
            one.image_id for one in sorted(database.read_all_images(), key=lambda one: one.name)
        ]


@lru_cache(maxsize=4)
def _view(live: Camera, working: Camera, known: bool) -> WorkingView:
    return WorkingView(live, working, known)


def _threads() -> int:
    return os.cpu_count() or 1


def _write_pgm(path: Path, image_hw: np.ndarray) -> None:
    """Write a grey image (h, w), uint8; of the formats without compression, COLMAP reads this."""
    height, width = image_hw.shape
    path.write_bytes(b"P5 %d %d 255\n" % (width, height) + image_hw.tobytes())


def _away_from_border(covered_hw: np.ndarray) -> np.ndarray:
    """Return 255 where features may be: away from pixels that the lens does not see (black)."""
    kernel = np.ones((_BORDER_PX, _BORDER_PX))
    away_hw: np.ndarray = cv2.erode(covered_hw.astype(np.uint8), kernel, borderValue=1)
    return 255 * away_hw


def _some_features(
    database: pycolmap.Database, image_id: int, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Return at most `count` descriptors (n, 128) of an image, unit vectors."""
    data_nd = database.read_descriptors(image_id).data.reshape(-1, 128)
    chosen = rng.permutation(len(data_nd))[:count]
    features_nd = data_nd[chosen].astype(np.float32)
    return features_nd / np.linalg.norm(features_nd, axis=1, keepdims=True).clip(min=1)


def _vlad(features_nd: np.ndarray, words_wd: np.ndarray) -> np.ndarray:
    """Return the VLAD descriptor (w * d,) of features."""
    nearest_n = (features_nd @ words_wd.T - (words_wd**2).sum(axis=1) / 2).argmax(axis=1)
    sums_wd = np.zeros_like(words_wd)
    np.add.at(sums_wd, nearest_n, features_nd - words_wd[nearest_n])
    sums_wd /= np.linalg.norm(sums_wd, axis=1, keepdims=True).clip(min=1e-6)
    return sums_wd.ravel() / math.sqrt(max(int(sums_wd.any(axis=1).sum()), 1))
