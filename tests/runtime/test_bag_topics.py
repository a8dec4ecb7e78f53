"""Which topics of a recording are used: images, calibration, depth, poses."""

import numpy as np
import pytest
from make_bag import (
    a_compressed,
    a_compressed_depth,
    a_depth,
    a_pose,
    a_text,
    an_image,
    an_info,
    depth,
    pose,
    record,
)

from mote_localization.errors import BagError
from mote_localization.scenes import RecordingOptions, open_scene
from mote_localization.scenes.bags import BagScene


@pytest.fixture
def opened(tmp_path):
    """Record messages, and open the recording with options."""

    def open_messages(*messages, **options):
        path = tmp_path / "b"
        if not path.exists():
            record(path, *messages)
        return BagScene(path, RecordingOptions(**options))

    return open_messages


def camera(name, count=1, frame_id="camera"):
    """Messages of a calibrated camera."""
    return [
        message
        for stamp in range(count)
        for message in (
            an_info(stamp, f"/{name}/camera_info"),
            an_image(stamp, f"/{name}/image_raw", frame_id=frame_id),
        )
    ]


def test_unknown_types_are_ignored(opened):
    assert opened(a_text(), *camera("cam")).count("all") == 1


def test_the_calibration_topic_beside_the_image_topic_is_used(opened):
    others = [an_info(topic=f"/{name}/camera_info", fx=1.0) for name in ("a", "b", "c")]
    scene = opened(*others, *camera("cam"))
    assert scene.info_topic == "/cam/camera_info"
    assert next(scene.frames("test")).camera.fx == 60


def test_a_calibration_elsewhere_is_used_if_it_is_the_only_one(opened):
    scene = opened(an_info(topic="/calibration"), an_image())
    assert scene.info_topic == "/calibration"


def test_several_calibrations_elsewhere_are_an_error_that_names_the_option(opened):
    infos = [an_info(topic=f"/{name}/camera_info") for name in ("a", "b", "c", "d")]
    with pytest.raises(BagError, match="/a/camera_info, /b/.*--info-topic"):
        opened(*infos, an_image())
    assert opened(info_topic="/b/camera_info").info_topic == "/b/camera_info"
    assert next(opened(info_topic="none").frames("all")).camera is None


def test_two_cameras_are_an_error_that_names_the_option(opened):
    with pytest.raises(BagError, match="/left/image_raw, /right/image_raw.*--image-topic"):
        opened(*camera("left", 10), *camera("right", 11))
    scene = opened(image_topic="/right/image_raw")
    assert (scene.image_topic, scene.info_topic) == ("/right/image_raw", "/right/camera_info")
    with pytest.raises(BagError, match="no usable topic /up .*--image-topic.*/left/image_raw"):
        opened(image_topic="/up")


def test_the_camera_with_the_default_name_is_used(opened):
    assert opened(*camera("camera"), *camera("other", 9)).image_topic == "/camera/image_raw"


def test_the_camera_with_a_calibration_is_used(opened):
    scene = opened(an_image(topic="/debug/image"), an_image(topic="/debug/image"), *camera("cam"))
    assert scene.image_topic == "/cam/image_raw"


def test_the_camera_with_most_images_is_used(opened):
    assert opened(*camera("slow", 3), *camera("fast", 8)).image_topic == "/fast/image_raw"


def test_of_the_images_of_one_camera_the_raw_ones_are_used(opened):
    rectified = an_image(topic="/cam/image_rect")
    assert opened(rectified, *camera("cam")).image_topic == "/cam/image_raw"


def test_compressed_variants_are_of_the_same_camera(opened):
    variants = [a_compressed(0, topic="/cam/image_raw/compressed"), a_compressed(0, topic="/x")]
    assert opened(variants[0], *camera("cam")).image_topic == "/cam/image_raw"


def test_a_compressed_variant_has_the_calibration_beside_its_base(opened):
    packed = a_compressed(0, topic="/cam/image_raw/compressed")
    other = an_info(topic="/cam/image_raw/camera_info", fx=1.0)
    scene = opened(packed, an_info(), other)
    assert (scene.info_topic, scene.is_raw) == ("/cam/camera_info", False)


@pytest.mark.parametrize(
    "depths",
    [
        [a_depth(0, depth(0), topic="/cam/range")],  # by its encoding
        [a_depth(0, depth(0), "32FC1", "/cam/range"), an_image(topic="/cam/depth_colours")],
        [a_compressed_depth(0, depth(0), topic="/cam/range")],
    ],
)
def test_depth_is_never_chosen_as_the_image(opened, depths):
    scene = opened(*depths, *depths, an_image(topic="/view/image"))
    assert scene.image_topic == "/view/image"
    assert scene.described()["depth"] == "/cam/range, 1 of 1 images"


def test_raw_depth_is_preferred_to_its_compressed_variant(opened):
    packed = a_compressed_depth(0, depth(0), topic="/cam/depth/compressedDepth")
    scene = opened(packed, a_depth(0, depth(0)), *camera("cam"))
    assert scene.described()["depth"].startswith("/cam/depth,")


def test_depth_of_the_images_frame_is_preferred(opened):
    other = a_depth(0, depth(0), topic="/depth/image_raw", frame_id="depth")
    aligned = a_depth(0, depth(0), topic="/aligned_depth/image_raw")
    scene = opened(other, aligned, *camera("cam"))
    assert scene.described()["depth"].startswith("/aligned_depth/image_raw")


@pytest.mark.parametrize(("baseline_m", "used"), [(0.0, True), (0.05, False)])
def test_depth_with_the_same_k_is_not_that_of_the_right_camera(opened, baseline_m, used):
    right = np.zeros(12)
    right[[0, 3, 5]] = 60, -60 * baseline_m, 60
    seen = a_depth(0, depth(0), topic="/left/depth", frame_id="left")
    scene = opened(
        seen,
        an_info(topic="/left/camera_info"),
        an_image(topic="/right/image", frame_id="right"),
        an_info(topic="/right/camera_info", p=right),
    )
    assert (scene.described()["depth"] != "none") == used


def test_two_depths_are_an_error_that_names_the_option(opened):
    depths = [a_depth(0, depth(0), topic=f"/depth_{name}") for name in "ab"]
    with pytest.raises(BagError, match="/depth_a, /depth_b.*--depth-topic"):
        opened(*depths, *camera("cam"))
    assert opened(depth_topic="/depth_b").described()["depth"].startswith("/depth_b")


def test_a_confidence_image_is_not_taken_for_depth(opened):
    confidence = a_depth(0, depth(0), "32FC1", "/cam/confidence")
    scene = opened(confidence, a_depth(0, depth(0)), *camera("cam"))
    assert scene.described()["depth"].startswith("/cam/depth,")


def test_two_topics_of_poses_are_an_error_that_names_the_option(opened):
    poses = [a_pose(0, pose(k), topic=f"/{name}") for k, name in enumerate(("goal", "tracker"))]
    with pytest.raises(BagError, match="/goal, /tracker.*--pose-topic"):
        opened(*poses, *camera("cam"))
    frame = next(opened(pose_topic="/tracker").frames("all"))
    assert frame.T_map_cam == pytest.approx(pose(1))
    assert next(opened(pose_topic="none").frames("all")).T_map_cam is None


def test_ground_truth_is_preferred_to_other_poses(opened):
    scene = opened(
        a_pose(0, pose(1), "/goal"), a_pose(0, pose(2), "/ground_truth/pose"), *camera("cam")
    )
    assert next(scene.frames("all")).T_map_cam == pytest.approx(pose(2))


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([an_info(), a_text()], r"no images.*it has.*/cam/camera_info \(1\), /chatter \(1\)"),
        ([an_info(), a_depth(0, depth(0))], r"no images.*that is not depth.*/cam/depth \(1\)"),
        ([an_info(k=np.zeros(9)), an_image()], "/cam/camera_info.*not calibrated.*--info-topic"),
    ],
)
def test_unusable_recordings_raise_an_error_that_names_the_cause(opened, messages, words):
    with pytest.raises(BagError, match=words):
        opened(*messages)


def test_messages_about_many_topics_are_short(opened, tmp_path):
    images = [an_image(topic=f"/{'x' * 100}{i}/image") for i in range(20)]
    with pytest.raises(BagError, match="several topics") as caught:
        opened(an_info(), *images)
    assert len(str(caught.value)) - len(str(tmp_path)) < 300


@pytest.mark.parametrize("option", ["info_topic", "depth_topic", "pose_topic"])
def test_a_topic_that_does_not_exist_is_an_error(opened, option):
    with pytest.raises(BagError, match=f"/nothing .--{option.replace('_', '-')}"):
        opened(*camera("cam"), **{option: "/nothing"})


def test_the_options_of_a_recording_reach_its_reader(tmp_path):
    bag = record(tmp_path / "b", *camera("a"), *camera("b"))
    scene = open_scene(bag, RecordingOptions(image_topic="/b/image_raw")).whole
    assert scene.image_topic == "/b/image_raw"


@pytest.mark.parametrize(
    ("fields", "focal", "centre"),
    [
        (dict(width=128, height=96, binning_x=2, binning_y=2), 30.0, (15.5, 11.5)),
        # a region is x_offset, y_offset, height, width
        (dict(width=128, height=96, roi=(10, 20, 48, 64)), 60.0, (21.5, 3.5)),
        (dict(roi=(10, 20, 48, 64)), 60.0, (21.5, 3.5)),  # the region's own size
        (dict(binning_x=2, binning_y=2), 60.0, (31.5, 23.5)),  # K is that of the images
        (dict(roi=(0, 0, 48, 64)), 60.0, (31.5, 23.5)),  # the whole image
    ],
)
def test_binning_and_region_of_a_calibration_are_applied(opened, fields, focal, centre):
    camera = next(opened(an_info(**fields), an_image()).frames("all")).camera
    assert (camera.width, camera.height) == (64, 48)
    assert camera.fx == pytest.approx(focal)
    assert (camera.cx, camera.cy) == pytest.approx(centre)


def test_a_calibration_file_takes_the_place_of_camera_info(tmp_path):
    bag = record(tmp_path / "b", an_info(), an_image(), an_info(topic="/b/info"))
    file = tmp_path / "camera.yaml"
    file.write_text(
        "image_width: 64\nimage_height: 48\ndistortion_model: plumb_bob\n"
        "camera_matrix: {data: [70, 0, 32, 0, 70, 24, 0, 0, 1]}\n"
    )
    scene = open_scene(bag, RecordingOptions(camera=file))
    assert next(scene.frames("all")).camera.fx == 70
    assert scene.described()["intrinsics"] == "given"
