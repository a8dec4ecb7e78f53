"""Different places that a model lays over each other, because they look alike."""

import numpy as np
import pytest

pytest.importorskip("pycolmap", reason="pycolmap is not installed")
from make_photographs import CAMERA, room_poses, write_photographs  # noqa: E402
from quick_sfm import QUICK  # noqa: E402

from distill_training.poses.sfm.checks import overlap_agreement  # noqa: E402
from distill_training.poses.sfm.feature_database import FeatureDatabase  # noqa: E402
from distill_training.poses.sfm.sfm_images import take_images  # noqa: E402
from distill_training.poses.sfm.sfm_model import Model  # noqa: E402
from distill_training.poses.sfm.structure_from_motion import _contradicted  # noqa: E402
from mote_localization.scenes import open_scene  # noqa: E402

COUNT = 8
CALIBRATION = """image_width: {width}
image_height: {height}
camera_name: test
camera_matrix: {{rows: 3, cols: 3, data: [{fx}, 0, {cx}, 0, {fy}, {cy}, 0, 0, 1]}}
distortion_model: plumb_bob
distortion_coefficients: {{rows: 1, cols: 5, data: [0, 0, 0, 0, 0]}}
"""


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> FeatureDatabase:
    """Features and matches of photographs of two rooms, from the same poses."""
    folder = tmp_path_factory.mktemp("rooms") / "photographs"
    for room, prefix in enumerate("ab"):
        write_photographs(folder, room_poses(COUNT), room=room, prefix=prefix)
    (folder / "camera.yaml").write_text(CALIBRATION.format(**vars(CAMERA)))
    images, _ = take_images(open_scene(folder), "given", 1600)
    database = FeatureDatabase(folder.with_name("features.db"), images, QUICK.sfm)
    database.extract()
    for start in (0, COUNT):
        database.match([(start + k, start + k + 1) for k in range(COUNT - 1)])
    return database


def model(database: FeatureDatabase, images: range) -> Model:
    """Return a model of some images; those of both rooms at the same poses, as if one room."""
    poses = {i: room_poses(COUNT)[i % COUNT] for i in images}
    return Model.triangulated(database.path, poses, {})


def test_one_room_is_not_contradicted(database: FeatureDatabase):
    assert not _contradicted(model(database, range(COUNT)), database).any()


def test_two_rooms_laid_over_each_other_contradict(database: FeatureDatabase):
    assert _contradicted(model(database, range(2 * COUNT)), database).mean() > 0.5


def test_images_with_few_pairs_are_not_judged():
    pairs = [(0, 1), (0, 2), (0, 3), (1, 2)]
    agreement_n = overlap_agreement(4, pairs, {(0, 1)})
    np.testing.assert_allclose(agreement_n, [1 / 3, np.nan, np.nan, np.nan])
