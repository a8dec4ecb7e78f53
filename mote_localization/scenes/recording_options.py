"""Options of recordings: which of their topics and frames are used."""

import math
import re
from dataclasses import dataclass, fields
from typing import Annotated

import tyro

from mote_localization.command_line import File
from mote_localization.errors import SceneError

Topic = Annotated[str | None, tyro.conf.arg(metavar="TOPIC")]
FrameId = Annotated[str | None, tyro.conf.arg(metavar="FRAME")]
Metres = Annotated[float | None, tyro.conf.arg(metavar="METRES")]
Seconds = Annotated[str | None, tyro.conf.arg(metavar="SECONDS")]

BLOCK_S = 10.0  # length of the blocks of --test-every
NO_TOPIC = "none"  # name of a topic that leaves out what it carries


@dataclass(frozen=True)
class RecordingOptions:
    """Topics of a rosbag2 recording, calibration, and which frames are used.

    Each layout of recordings uses some of them, and refuses the others.
    """

    # calibration of the camera of a video or of photographs, or in place of CameraInfo
    camera: File = None
    # length of the unit of the recording's poses, m; 1 for Polycam and Record3D; default: unknown
    # for a COLMAP model and transforms.json without depth
    unit_m: Metres = None

    # images of a recording; default: the only topic, or the one beside calibration and poses
    image_topic: Topic = None
    info_topic: Topic = None  # calibration of the camera; none: intrinsics are not known
    depth_topic: Topic = None  # depth images; none: without depth
    pose_topic: Topic = None  # poses of the camera or of the robot; none: without poses
    # frame of the poses that /tf gives, which becomes the map frame; default: map, else odom
    fixed_frame: FrameId = None
    # optical frame of the camera in /tf; default: the frame_id of its images
    camera_frame: FrameId = None
    # frames from this time after the first image on are test frames, as 120s; others training ones
    test_from: Seconds = None
    test_to: Seconds = None  # end of the test frames, after the first image, as 150s
    # test frames: every N-th of blocks of 10 s; 0: all frames are for training and for tests
    test_every: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    # most training frames: sharp ones, spread over the camera's motion
    max_frames: Annotated[int, tyro.conf.arg(metavar="N")] = 400

    def __post_init__(self) -> None:
        if self.unit_m is not None and not 0 < self.unit_m < math.inf:  # also for NaN
            raise SceneError(
                f"found --unit-m {self.unit_m:g}, expected the length of the unit of the poses in "
                "metres, a finite number above 0"
            )
        start, end = self.test_span_s
        if not start < end:
            raise SceneError(
                f"found --test-from {start:g} s and --test-to {end:g} s, expected an earlier start"
            )
        if self.test_every and (self.test_from or self.test_to):
            raise SceneError(
                "found --test-every with --test-from or --test-to, expected one choice of the test "
                "frames"
            )
        if self.test_every < 0 or self.test_every == 1:
            raise SceneError(f"found --test-every {self.test_every}, expected 0, or 2 or more")
        if self.max_frames < 2:
            raise SceneError(f"found --max-frames {self.max_frames}, expected 2 or more")

    @property
    def test_span_s(self) -> tuple[float, float]:
        """Start and end of the test frames, seconds after the first image; all without options."""
        start = _seconds(self.test_from, "--test-from") if self.test_from else -float("inf")
        end = _seconds(self.test_to, "--test-to") if self.test_to else float("inf")
        return start, end

    @property
    def divides(self) -> bool:
        """Whether the options choose test frames."""
        return bool(self.test_from or self.test_to or self.test_every)

    @property
    def division(self) -> str:
        """The options that choose test frames, as text."""
        if self.test_every:
            return f"--test-every {self.test_every} (of blocks of {BLOCK_S:g} s)"
        given = (("--test-from", self.test_from), ("--test-to", self.test_to))
        return " ".join(f"{flag} {value}" for flag, value in given if value)

    def given(self) -> list[str]:
        """Return the flags that differ from their defaults."""
        return [
            "--" + field.name.replace("_", "-")
            for field in fields(self)
            if getattr(self, field.name) != field.default
        ]

    def given_values(self) -> dict[str, str]:
        """Return the flags that differ from their defaults, and their values as text."""
        names = {flag: flag.removeprefix("--").replace("-", "_") for flag in self.given()}
        return {flag: str(getattr(self, name)) for flag, name in names.items()}


def _seconds(text: str, option: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*s?", text.strip())
    if not match:
        raise SceneError(f"found {option} {text[:40]!r}, expected seconds, as 120s")
    return float(match[1])
