"""Cameras, and the canonical view against images of a known scene."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from mote_localization.camera import (
    Camera,
    CanonicalView,
    canonical_camera,
    cell_pixels,
    frustum_edges,
)
from mote_localization.camera_infos import camera_of_info
from mote_localization.errors import CameraError, ImageError

CANONICAL = Camera(160, 120, 130.0, 130.0, 79.5, 59.5)
LENSES = {
    "plumb_bob": (-0.25, 0.08, 0.002, -0.001, -0.01),
    "rational_polynomial": (0.4, 0.05, 0.001, -0.0005, 0.002, 0.7, 0.12, 0.01),
    "equidistant": (-0.03, 0.01, -0.004, 0.0005),
}


def scenery(rays):
    """Return the colours (..., 3), 0 to 255, of a smooth pattern at infinity along rays (z = 1)."""
    x, y = rays[..., 0], rays[..., 1]
    waves = [np.sin(9 * x + 2 * y), np.cos(7 * y - x), np.sin(5 * (x + y) + 1)]
    return 127.5 + 100 * np.stack(waves, axis=-1)


def photograph(camera):
    """Return image_hw3, uint8, of the scenery; OpenCV's inverse models give each pixel's ray."""
    pixels = cell_pixels(camera.width, camera.height, 1)
    D = np.array(camera.distortion or (0.0,) * 4)
    flat = pixels.reshape(-1, 1, 2)
    if camera.distortion_model == "equidistant" and camera.distortion:
        xy = cv2.fisheye.undistortPoints(flat, camera.K_33, D)
    else:
        criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_COUNT, 200, 1e-12)
        xy = cv2.undistortPointsIter(flat, camera.K_33, D, np.eye(3), np.eye(3), criteria)
    return scenery(xy.reshape(pixels.shape)).round().astype(np.uint8)


def colour_error(view, image_hw3=None):
    """Return the error of the remapped scenery per pixel, 0 to 255, against the exact colours.

    The image is a photograph by the view's live camera, unless another one is given.
    """
    expected = scenery(CANONICAL.rays(cell_pixels(160, 120, 1)))
    image_hw3 = photograph(view.live) if image_hw3 is None else image_hw3
    return np.abs(view.warp(image_hw3) - expected).max(axis=-1)


@pytest.mark.parametrize("model", LENSES)
def test_image_of_a_distorted_camera_is_remapped_correctly(model):
    view = CanonicalView(
        Camera(480, 360, 260, 261, 236.2, 183.7, model, LENSES[model]), CANONICAL, 8
    )
    assert view.covered_hw.all()
    # of 255: rounding, and the remap table's resolution of 1/32 px
    assert colour_error(view)[1:-1, 1:-1].max() < 3


@pytest.mark.parametrize(
    ("model", "count"), [("plumb_bob", 0), ("plumb_bob", 5), ("equidistant", 4)]
)
def test_coefficients_of_0_give_the_undistorted_lens_of_the_model(model, count):
    """A pinhole for plumb_bob; for equidistant the pixel is proportional to the angle."""
    camera = Camera(640, 480, 500.0, 510.0, 320.0, 240.0, model, (0.0,) * count)
    rays = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 1.0], [0.0, -3.0, 2.0]])
    angle = model == "equidistant"
    right = np.pi / 4 if angle else 1.0
    up = np.arctan(1.5) if angle else 1.5
    expected = [[320, 240], [320 + 500 * right, 240], [320, 240 - 510 * up]]
    np.testing.assert_allclose(camera.project(rays), expected, atol=1e-9)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_reduction_keeps_pixel_centres(factor):
    live = CANONICAL.resized(160 * factor, 120 * factor)
    error = colour_error(CanonicalView(live, CANONICAL, 8))
    assert error.max() < 2.5  # a shift by half a live pixel gives over 4


def test_image_of_the_canonical_camera_is_unchanged():
    image = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
    assert np.array_equal(CanonicalView(CANONICAL, CANONICAL, 8).warp(image), image)


def test_view_of_reversed_channels_gives_a_contiguous_image():
    image = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
    view = CanonicalView(CANONICAL, CANONICAL, 8)
    warped = view.warp(image[..., ::-1])
    assert np.array_equal(warped, image[..., ::-1])
    assert warped.flags.c_contiguous  # backends require it


def test_image_of_higher_resolution_is_averaged():
    view = CanonicalView(CANONICAL.resized(640, 480), CANONICAL, 8)
    checkers = (np.indices((480, 640)).sum(axis=0) % 2 * 255).astype(np.uint8)
    assert np.abs(view.warp(np.dstack([checkers] * 3)).astype(int) - 127.5).max() <= 1


def test_cells_outside_a_narrower_camera_are_not_covered_and_black():
    narrow = Camera(80, 120, 130.0, 130.0, 39.5, 59.5)  # the middle half of the columns
    view = CanonicalView(narrow, CANONICAL, 8)
    assert view.covered_hw[:, 5:15].all()
    assert not view.covered_hw[:, :5].any() and not view.covered_hw[:, 15:].any()
    image = view.warp(np.full((120, 80, 3), 255, np.uint8))
    assert (image[:, 40:120] == 255).all() and not image[:, :40].any() and not image[:, 120:].any()


def test_rays_beyond_the_fold_of_a_lens_polynomial_are_not_covered():
    # x (1 - 0.4 r^2) has its maximum, 0.61, at r = 0.91 and folds back beyond
    live = Camera(320, 240, 200.0, 200.0, 159.5, 119.5, "plumb_bob", (-0.4, 0.0, 0.0, 0.0))
    wide = Camera(320, 240, 80.0, 80.0, 159.5, 119.5)
    radius = np.linalg.norm(wide.rays(cell_pixels(320, 240, 8))[..., :2], axis=-1)
    folded = live.project(wide.rays(cell_pixels(320, 240, 8)))
    assert ((folded > 0) & (folded < (320, 240))).all(axis=-1)[radius > 0.95].any()
    covered_hw = CanonicalView(live, wide, 8).covered_hw
    assert not covered_hw[radius > 0.95].any()
    assert covered_hw[radius < 0.6].all()


def test_camera_without_overlap_is_refused():
    aside = Camera(160, 120, 130.0, 130.0, 5000.0, 59.5)
    with pytest.raises(CameraError, match="sees nothing"):
        CanonicalView(aside, CANONICAL, 8)


@pytest.mark.parametrize("shape", [(120, 161, 3), (160, 120, 3), (120, 160), (120, 160, 4)])
def test_image_of_another_size_is_refused(shape):
    view = CanonicalView(CANONICAL, CANONICAL, 8)
    with pytest.raises(ImageError, match="do not belong together"):
        view.warp(np.zeros(shape, np.uint8))


def test_image_of_another_type_is_refused():
    with pytest.raises(ImageError, match="uint16"):
        CanonicalView(CANONICAL, CANONICAL, 8).warp(np.zeros((120, 160, 3), np.uint16))


def test_cell_pixels_are_the_centres_of_cells():
    pixels = cell_pixels(16, 24, 8)
    assert pixels.shape == (3, 2, 2)
    assert np.array_equal(pixels[0, 0], [3.5, 3.5]) and np.array_equal(pixels[2, 1], [11.5, 19.5])


def test_resized_camera_has_the_same_view():
    large = CANONICAL.resized(640, 480)
    assert np.allclose(large.corner_rays(), CANONICAL.corner_rays(), atol=1e-12)
    corner = CANONICAL.rays(np.array([-0.5, 119.5]))
    assert np.allclose(large.project(corner), [-0.5, 479.5], atol=1e-9)


def test_corner_rays_are_those_of_the_outer_image_corners_clockwise():
    corners = CANONICAL.project(CANONICAL.corner_rays())
    assert np.allclose(corners, [[-0.5, -0.5], [159.5, -0.5], [159.5, 119.5], [-0.5, 119.5]])


def test_frustum_has_four_sides_at_its_depth_and_four_edges_from_the_centre():
    edges = frustum_edges(CANONICAL, 2.5)
    corners = 2.5 * CANONICAL.corner_rays()
    assert edges.shape == (8, 2, 3)
    assert np.allclose(edges[:4], np.stack([corners, np.roll(corners, 1, axis=0)], axis=1))
    assert not edges[4:, 0].any() and np.allclose(edges[4:, 1], corners)


def test_canonical_camera_is_cropped_to_whole_cells_evenly():
    live = Camera(540, 360, 495.6, 495.5, 269.5, 169.2, "plumb_bob", (0.1, 0.0, 0.0, 0.0))
    canonical = canonical_camera(live, 320, 8)
    assert (canonical.width, canonical.height, canonical.distortion) == (320, 208, ())
    cut = (360 * 320 / 540 - 208) / 2
    assert canonical.cy == pytest.approx((169.2 + 0.5) * 320 / 540 - 0.5 - cut)
    assert canonical.fx / canonical.fy == pytest.approx(495.6 / 495.5)


@pytest.mark.parametrize("size", [(322, 8), (320, 640), (4000, 8), (1600, 1)])
def test_canonical_camera_without_whole_cells_or_with_too_many_is_refused(size):
    with pytest.raises(CameraError):
        canonical_camera(CANONICAL, *size)


K = [[500.0, 0, 320], [0, 500, 240], [0, 0, 1]]


def test_coefficients_of_0_compare_equal_to_no_distortion():
    assert Camera.from_K(640, 480, np.array(K), "plumb_bob", (0.0,) * 5) == Camera(
        640, 480, 500.0, 500.0, 320.0, 240.0
    )


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((640, 480, np.zeros(9)), "calibrat"),
        ((640, 480, np.full((3, 3), np.nan)), "expected"),
        ((640, 480, -np.array(K)), "expected"),
        ((640, 480, np.transpose(K)), "fx 0 cx"),
        ((640, 480, np.eye(4)), "16 values"),
        ((0, 480, K), "0x480"),
        ((640, 10**6, K), "1000000 px"),
        ((640, 480, K, "brown", (0.1, 0.0, 0.0, 0.0)), "brown"),
        ((640, 480, K, "plumb_bob", (0.1,)), "1 coefficients"),
        ((640, 480, K, "equidistant", (0.1, 0.0, 0.0, np.inf)), "finite"),
    ],
)
def test_impossible_camera_is_refused(arguments, complaint):
    with pytest.raises(CameraError, match=complaint) as caught:
        Camera.from_K(*arguments)
    assert len(str(caught.value)) <= 300


@pytest.mark.parametrize(
    ("model", "given", "kept"),
    [
        ("plumb_bob", (-0.03, 0.04, 0, 0, -0.01, 0, 0, 0), 5),
        ("plumb_bob", (-0.03, 0.04, 0, 0, 0), 5),
        ("plumb_bob", (-0.03, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), 5),
        ("equidistant", (0.1, 0, 0, 0, 0), 4),
        ("rational_polynomial", (0.1, 0, 0, 0, 0, 0, 0, 0, 0, 0), 8),
        ("rational_polynomial", (0.1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), 14),
    ],
)
def test_zeros_that_pad_the_coefficients_are_cut(model, given, kept):
    assert Camera.from_K(640, 480, K, model, given).distortion == given[:kept]


def test_padding_that_is_not_0_is_refused():
    with pytest.raises(CameraError, match="8 coefficients of distortion model plumb_bob"):
        Camera.from_K(640, 480, K, "plumb_bob", (-0.03, 0.04, 0, 0, -0.01, 0, 0, 1e-6))


@pytest.mark.parametrize(
    ("name", "count", "model"),
    [
        ("fisheye", 4, "equidistant"),
        ("radtan", 4, "plumb_bob"),
        ("", 5, "plumb_bob"),
        (None, 5, "plumb_bob"),
        ("", 8, "rational_polynomial"),
    ],
)
def test_a_lens_model_has_other_names_or_follows_from_its_coefficients(name, count, model):
    assert Camera.from_K(640, 480, K, name, (0.1,) * count).distortion_model == model


def test_a_small_skew_is_dropped_with_one_warning(caplog):
    skewed = np.array(K) + [[0, 1.25, 0], [0, 0, 0], [0, 0, 0]]
    for _ in range(2):
        assert Camera.from_K(640, 480, skewed) == Camera.from_K(640, 480, K)
    (warning,) = caplog.messages
    assert "skew of 1.25 px" in warning and "by 0.6 px" in warning


@pytest.mark.parametrize("skew", [5.0, -5.0, np.nan])
def test_a_large_skew_is_refused(skew):
    with pytest.raises(CameraError, match="fx 0 cx"):
        Camera.from_K(640, 480, np.array(K) + [[0, skew, 0], [0, 0, 0], [0, 0, 0]])


def test_images_of_a_region_with_binned_pixels_have_the_rays_of_the_sensor():
    sensor = Camera(640, 480, 500.0, 510.0, 320.0, 240.0, "plumb_bob", LENSES["plumb_bob"])
    part = sensor.read_out((100, 60), (400, 300), (2, 2))
    assert (part.width, part.height, part.fx, part.fy) == (200, 150, 250.0, 255.0)
    rays = np.array([[0.1, -0.05, 1.0], [-0.2, 0.1, 1.0]])
    # binned pixel i is the mean of the sensor's pixels 2 i and 2 i + 1 of the region
    expected = (sensor.project(rays) - (100.5, 60.5)) / 2
    np.testing.assert_allclose(part.project(rays), expected, atol=1e-9)


def test_binning_that_leaves_no_pixel_is_refused():
    with pytest.raises(CameraError, match="binning of 1x481"):
        Camera.from_K(640, 480, K).read_out(binning=(1, 481))


def test_images_of_the_whole_sensor_have_its_camera():
    assert CANONICAL.read_out() == CANONICAL
    assert CANONICAL.read_out(binning=(1, 1)) == CANONICAL


SENSOR = Camera(640, 480, 520.0, 522.0, 316.2, 243.7, "plumb_bob", LENSES["plumb_bob"])
REGION = (58, 34, 540, 424)  # left, top, width, height
SEEN = np.s_[16:104, 24:144]  # pixels of the canonical image that the region shows


def cropped(image_hw3):
    left, top, width, height = REGION
    return image_hw3[top : top + height, left : left + width]


def halved(image_hw3):
    height, width = image_hw3.shape[:2]
    return cv2.resize(image_hw3, (width // 2, height // 2), interpolation=cv2.INTER_AREA)


def camera_info(size=(640, 480), binning=0, region=(0, 0, 0, 0), padding=0, P_34=None):
    """Return the fields of a sensor_msgs/CameraInfo of the sensor."""
    return SimpleNamespace(
        width=size[0], height=size[1], k=SENSOR.K_33.reshape(9),
        distortion_model=SENSOR.distortion_model, d=[*SENSOR.distortion, *[0.0] * padding],
        p=np.zeros(12) if P_34 is None else P_34, binning_x=binning, binning_y=binning,
        roi=SimpleNamespace(
            x_offset=region[0], y_offset=region[1], width=region[2], height=region[3],
            do_rectify=any(region),
        ),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("info", "change"),
    [
        (camera_info(binning=2), halved),
        (camera_info(region=REGION), cropped),
        (camera_info(size=REGION[2:], region=REGION), cropped),
        (camera_info(size=REGION[2:], region=(*REGION[:2], 0, 0)), cropped),
        (camera_info(region=REGION, binning=2), lambda i: halved(cropped(i))),
        (camera_info(size=REGION[2:], region=REGION, binning=2), lambda i: halved(cropped(i))),
        (camera_info(size=(270, 212), region=REGION, binning=2), lambda i: halved(cropped(i))),
        (camera_info(padding=3), np.copy),
    ],
)
def test_images_of_a_camera_info_are_remapped_as_those_of_the_sensor(info, change):
    image_hw3 = change(photograph(SENSOR))
    live = camera_of_info(info, (image_hw3.shape[1], image_hw3.shape[0]))
    assert colour_error(CanonicalView(live, CANONICAL, 8), image_hw3)[SEEN].max() < 3


@pytest.mark.parametrize("alpha", [0, 1])
def test_rectified_images_are_remapped_by_P(alpha):
    K, D = SENSOR.K_33, np.array(SENSOR.distortion)
    P, _ = cv2.getOptimalNewCameraMatrix(K, D, (640, 480), alpha)
    rectified_hw3 = cv2.undistort(photograph(SENSOR), K, D, None, P)
    info = camera_info(P_34=np.hstack([P, np.zeros((3, 1))]).reshape(12))
    right, wrong = (
        CanonicalView(camera_of_info(info, (640, 480), rectified), CANONICAL, 8)
        for rectified in (True, False)
    )
    assert colour_error(right, rectified_hw3)[SEEN].max() < 3
    assert colour_error(wrong, rectified_hw3)[SEEN].max() > 20
