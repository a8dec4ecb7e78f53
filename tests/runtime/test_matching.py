"""Images and camera infos are paired by their stamps; this needs no ROS 2."""

from mote_localization.nodes.matching import StampMatcher


def test_messages_of_equal_stamp_are_paired_in_any_order():
    matcher = StampMatcher()
    assert matcher.add_image(1, "image 1") is None
    assert matcher.add_info(1, "info 1") == ("image 1", "info 1")
    assert matcher.add_info(2, "info 2") is None
    assert matcher.add_image(2, "image 2") == ("image 2", "info 2")
    assert matcher.take_unmatched() == 0


def test_a_pair_discards_older_images():
    matcher = StampMatcher()
    for stamp in 1, 2, 3:
        matcher.add_image(stamp, stamp)
    assert matcher.add_info(2, "info") == (2, "info")
    assert matcher.add_info(1, "info") is None
    assert matcher.add_info(3, "info") == (3, "info")
    assert matcher.take_unmatched() == 0  # the CameraInfo of each has arrived


def test_discarded_images_without_camera_info_are_counted():
    matcher = StampMatcher()
    for stamp in 1, 2:
        matcher.add_image(stamp, stamp)
    matcher.add_info(2, "info")
    matcher.add_image(3, 3)
    matcher.add_info(4, "info")
    assert matcher.add_image(4, 4) == (4, "info")
    assert matcher.take_unmatched() == 2
    assert matcher.take_unmatched() == 0


def test_few_messages_wait_and_the_dropped_ones_are_counted():
    matcher = StampMatcher(max_images=4, max_infos=30)
    for stamp in range(10):
        matcher.add_image(stamp, stamp)
    assert matcher.take_unmatched() == 6
    for stamp in range(100, 200):
        matcher.add_info(stamp, stamp)
    assert matcher.add_image(100, "too late") is None
    assert matcher.add_image(199, "image") == ("image", 199)
