"""Images get the CameraInfo that belongs to them; this needs no ROS 2."""

from mote_localization.nodes.matching import InfoMatcher

MS = 1_000_000


def matcher_of(**options):
    """A matcher of infos whose first letter is the calibration."""
    return InfoMatcher(lambda info: info[0], **options)


def test_messages_of_equal_stamp_are_paired_in_any_order():
    matcher = matcher_of()
    assert matcher.add_image(1 * MS, "image 1") is None
    assert matcher.add_info(1 * MS, "a1") == ("image 1", "a1")
    assert matcher.add_info(34 * MS, "a2") is None
    assert matcher.add_image(34 * MS, "image 2") == ("image 2", "a2")
    assert matcher.take_unmatched() == 0


def frames_with_a_pose(info_stamps, images=100):
    """Return how many of the images at 30 Hz get a CameraInfo, which arrive as they are stamped."""
    matcher, found = matcher_of(), 0
    events = [(stamp, 1, "a") for stamp in info_stamps]
    events += [(i * 33 * MS, 0, i) for i in range(images)]
    for stamp, is_info, value in sorted(events):
        found += (matcher.add_info if is_info else matcher.add_image)(stamp, value) is not None
    return found


def test_other_stamps_cost_at_most_one_image():
    everything = [i * 33 * MS for i in range(100)]
    assert frames_with_a_pose(everything) == 100
    assert frames_with_a_pose([stamp + 1000 for stamp in everything]) >= 99  # 1 us
    assert frames_with_a_pose([stamp + 8 * MS for stamp in everything]) >= 99
    assert frames_with_a_pose([-1]) >= 99  # once, before the first image
    assert frames_with_a_pose([10 * MS]) >= 99  # once, after it
    assert frames_with_a_pose(range(0, 3300 * MS, 1000 * MS)) >= 99  # 1 Hz
    assert frames_with_a_pose([]) == 0


def test_a_lost_camera_info_costs_one_image_at_most():
    stamps = [i * 33 * MS for i in range(100)]
    del stamps[50], stamps[20]
    assert frames_with_a_pose(stamps) >= 98


def test_images_wait_again_once_the_stamps_are_equal():
    matcher = matcher_of()
    matcher.add_info(0, "a")
    matcher.add_image(33 * MS, 1)
    assert matcher.add_image(66 * MS, 2) == (2, "a")  # waits no longer
    assert matcher.add_info(66 * MS, "a") is None
    assert matcher.add_image(100 * MS, 3) is None
    assert matcher.add_info(100 * MS, "b") == (3, "b")


def test_the_calibration_that_was_valid_at_the_image_is_taken():
    matcher = matcher_of(tolerance_ns=10 * MS)
    for stamp, info in (0, "a"), (1000 * MS, "b"), (2000 * MS, "c"):
        matcher.add_info(stamp, info)
    matcher.add_image(500 * MS, 0)
    assert matcher.add_image(600 * MS, 1) == (1, "a")
    assert matcher.add_image(995 * MS, 2) == (2, "b")  # stamped a little later
    assert matcher.add_image(1900 * MS, 3) == (3, "b")


def test_an_image_before_several_calibrations_has_none():
    matcher = matcher_of()
    matcher.add_info(1000 * MS, "a")
    matcher.add_info(2000 * MS, "b")
    for stamp in range(5):
        assert matcher.add_image(stamp * MS, stamp) is None
    assert matcher.take_unmatched() == 4 and matcher.take_unmatched() == 0


def test_a_repeated_image_is_not_counted_as_dropped():
    matcher = matcher_of()
    for _ in range(3):
        assert matcher.add_image(5, "image") is None
    assert matcher.take_unmatched() == 0
    assert matcher.add_info(5, "a") == ("image", "a")


def test_images_without_stamps_have_the_last_camera_info():
    matcher = matcher_of()
    for number in range(3):
        matcher.add_info(0, f"a{number}")
        assert matcher.add_image(0, number) == (number, f"a{number}")


def test_few_messages_are_kept():
    matcher = matcher_of(max_infos=30)
    for stamp in range(100):
        matcher.add_info(stamp * 100 * MS, f"{chr(97 + stamp % 2)}")
    matcher.add_image(0, "too old")
    assert matcher.add_image(1, "too old") is None
    assert matcher.add_image(9900 * MS, "image") == ("image", "b")
