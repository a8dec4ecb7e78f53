"""Images and rendered views: correlation of cells, and which of two views explains an image."""

import numpy as np
import pytest

from mote_localization.camera import cell_pixels
from mote_localization.view_similarity import is_explained_better, similarity

CENTRES_HW2 = cell_pixels(320, 240, 8)
CELLS = 30 * 40


def texture(seed):
    coarse_hw = np.random.default_rng(seed).integers(0, 255, (60, 80))
    return np.kron(coarse_hw, np.ones((4, 4))).astype(np.uint8)


def test_a_similar_view_correlates_also_beside_the_image_and_in_other_light():
    image_hw, darker_hw = texture(0), (texture(0) // 2 + 10).astype(np.uint8)
    for view_hw in (image_hw, darker_hw):
        assert similarity(image_hw, view_hw, CENTRES_HW2).min() > 0.99
    beside_hw = similarity(image_hw, np.roll(image_hw, 1, axis=1), CENTRES_HW2)
    assert beside_hw.shape == (30, 40) and np.median(beside_hw) > 0.8


def test_another_view_and_a_blank_one_do_not_correlate():
    assert np.abs(similarity(texture(0), texture(1), CENTRES_HW2)).mean() < 0.3
    blank_hw = np.full((240, 320), 128, np.uint8)
    assert np.abs(similarity(texture(0), blank_hw, CENTRES_HW2)).max() < 1e-3


def correlations(**parts):
    """Return correlations of 0.9 everywhere, but for the given values of the first cells."""
    found_n = np.full(CELLS, 0.9, np.float32)
    for value, count in parts.values():
        found_n[:count] = value
    return found_n.reshape(30, 40)


@pytest.mark.parametrize(
    ("one", "other", "better"),
    [
        ({}, {"different": (0.0, 200)}, True),
        ({}, {}, False),
        ({}, {"different": (0.0, 40)}, False),  # too few
        ({}, {"unsure": (0.5, 200)}, False),  # neither similar nor different
        ({}, {"hidden": (np.nan, 200)}, False),  # not shown by the other, so not compared
        ({"different": (0.0, 100)}, {"different": (0.0, 600)}, True),
        ({"different": (0.0, 200)}, {"different": (0.0, 600)}, False),  # explains too little
        ({"hidden": (np.nan, 300)}, {"different": (0.0, 600)}, False),  # shows too little
        ({}, {"different": (0.0, 700), "hidden": (np.nan, 620)}, False),  # too few in both
    ],
)
def test_a_view_is_better_where_cells_of_both_say_so(one, other, better):
    assert is_explained_better(correlations(**one), correlations(**other), CELLS) == better


@pytest.mark.parametrize(("worse", "better"), [(20, True), (40, False)])
def test_few_cells_may_say_the_opposite(worse, better):
    one_hw, other_hw = correlations(), correlations(different=(0.0, 120))
    one_hw.flat[-worse:] = 0.0
    assert is_explained_better(one_hw, other_hw, CELLS) == better


def test_a_view_without_keyframes_explains_nothing():
    nothing_hw = np.full((30, 40), np.nan, np.float32)
    assert not is_explained_better(nothing_hw, correlations(), CELLS)
    assert not is_explained_better(correlations(), nothing_hw, CELLS)
