"""An evaluation over ROS 2: a node, a player and a recorder, each its own process, over real DDS.

This process only starts them and reads what they wrote; it imports no ROS.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from mote_localization.errors import ReplayError
from mote_localization.evaluation.metrics import STAGES, Answer, Transport
from mote_localization.geometry import pose_from
from mote_localization.progress import progress_bar, track
from mote_localization.scenes import Frame, Scene, Split
from mote_localization.scenes.bag import BagFrame, BagScene, BagWriter
from mote_localization.share import share_file
from mote_localization.stamps import stamp_seconds

_FOLDER_RATE_HZ = 30.0  # at which the frames of a scene folder are played
_READY_S = 60.0  # s, for the processes to start, load the map and find each other
_QUIET_S = 2.0  # s without an answer after which the node is taken to be done
_END_S = 15.0  # s, for a process to end after SIGINT
_POLL_S = 0.1
_TAIL_LINES = 12  # of a failed process's log, shown in the error


@dataclass(frozen=True)
class _Played:
    """What the player is given: a recording, and the frames in it."""

    bag: Path
    image_topic: str
    info_topic: str
    frames: list[tuple[float, Frame]]  # stamp in the recording, s; its image is not kept


def replay(
    scene: Scene,
    split: Split,
    map_path: Path,
    backend: str,
    threads: int,
    rate: float = 1.0,
    repeat: int = 1,
) -> tuple[list[Answer], Transport]:
    """Play frames to a localizer node and collect what it publishes.

    DDS stays on the loopback, in a domain of its own. The frames of a scene folder, and those to be
    repeated, are first written to a temporary recording, one after the other at 30 Hz.

    Args:
        scene: where the frames come from.
        split: which frames.
        map_path: the node's map.
        backend: what runs the network in the node.
        threads: CPU threads of the network; 0: one per core.
        rate: speed of the replay; 1: as recorded.
        repeat: how many times over the frames are played.

    Returns:
        An answer for each frame played, and what the transport showed.

    Raises:
        ReplayError: a process failed; the end of its log is in the message.
        BagError: the temporary recording cannot be written.
    """
    if not 0 < rate < float("inf"):
        raise ReplayError(f"--rate {rate:g}: expected a number above 0")
    if repeat < 1:
        raise ReplayError(f"--repeat {repeat}: expected 1 or more")
    with tempfile.TemporaryDirectory(prefix="mote-") as name:
        folder = Path(name)
        played = _recording(scene, split, repeat, folder)
        published = folder / "published.jsonl"
        answered = folder / "answered.jsonl"
        parameters = {"map": str(map_path.resolve()), "backend": backend, "threads": threads}
        with _ended_by_sigterm(), ExitStack() as stack:
            start = _Starter(folder, stack)
            node = start(
                "localizer_main",
                ["--ros-args", "-r", f"image:={played.image_topic}"]
                + ["-r", f"camera_info:={played.info_topic}"]
                # JSON strings are YAML strings, whatever a path holds.
                + [w for k, v in parameters.items() for w in ("-p", f"{k}:={json.dumps(v)}")],
            )
            recorder = start("recorder", [str(answered)])
            _wait_until_recording(recorder, node)
            player = start(
                "player",
                [str(played.bag), "--rate", f"{rate:g}", "--wait", f"{_READY_S:g}"]
                + ["--log", str(published)],
            )
            _wait_until_played(player, [node, recorder], published, len(played.frames))
            _wait_until_quiet(answered, len(played.frames))
            peak_mb = node.peak_mb()
            for process in (node, recorder):
                process.end()
        return _answers(played, _lines(published), _lines(answered), peak_mb, rate)


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end this process as an exception does, so that its children end first."""

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _recording(scene: Scene, split: Split, repeat: int, folder: Path) -> _Played:
    """Return the scene as a recording; images of a folder, or to be repeated, are written first."""
    if isinstance(scene, BagScene) and repeat == 1:
        found: list[tuple[float, Frame]] = [
            (f.stamp_s, replace(f, message=None)) for f in scene.frames(split)
        ]
        return _Played(scene.path, scene.image_topic, scene.info_topic, found)
    frames = []
    bag = folder / "recording"
    with BagWriter(bag) as writer:
        repeated = chain.from_iterable(scene.frames(split) for _ in range(repeat))
        total = repeat * scene.count(split)
        for index, frame in enumerate(track(repeated, "writing the recording", total)):
            stamp_ns = round((index + 1) / _FOLDER_RATE_HZ * 1e9)
            writer.write(stamp_ns, frame.image(), frame.known_camera())
            if isinstance(frame, BagFrame):
                frame = replace(frame, message=None)  # the image, which would fill the memory
            frames.append((stamp_seconds(stamp_ns), frame))
    written = BagScene(bag)
    return _Played(bag, written.image_topic, written.info_topic, frames)


class _Process:
    """A child of ours, and its log."""

    def __init__(self, name: str, arguments: Sequence[str], env: dict[str, str], log: Path) -> None:
        """Start a module of `mote_localization.nodes`."""
        self.name, self.log = name.removesuffix("_main"), log
        command = [sys.executable, "-m", f"mote_localization.nodes.{name}", *arguments]
        with log.open("wb") as output:
            self._child = subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    def finished(self) -> bool:
        """Return whether it ended well; what ended otherwise is an error."""
        code = self._child.poll()
        if code:
            raise self.failure(f"ended with exit code {code}")
        return code == 0

    def failure(self, what: str) -> ReplayError:
        """Return an error that shows the end of the log."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        tail = "\n  ".join(lines[-_TAIL_LINES:]) or "(its log is empty)"
        return ReplayError(f"the {self.name} {what}; its log ends:\n  {tail}")

    def peak_mb(self) -> float:
        """Return the peak resident memory in 10^6 bytes; NaN where the system does not tell."""
        try:
            status = Path(f"/proc/{self._child.pid}/status").read_text()
        except OSError:
            return float("nan")
        peaks = [line.split() for line in status.splitlines() if line.startswith("VmHWM")]
        return int(peaks[0][1]) * 1024 / 1e6 if peaks else float("nan")

    def end(self) -> None:
        """Interrupt it and expect a clean end."""
        if not self.finished():
            self._child.send_signal(signal.SIGINT)
        try:
            self._child.wait(_END_S)
        except subprocess.TimeoutExpired:
            raise self.failure(f"did not end within {_END_S:g} s of SIGINT") from None
        self.finished()

    def kill(self) -> None:
        """Make sure that it is gone: interrupted, and killed if that does not help."""
        if self._child.poll() is None:
            self._child.send_signal(signal.SIGINT)
            try:
                self._child.wait(3)
            except subprocess.TimeoutExpired:
                self._child.kill()
        self._child.wait()


class _Starter:
    """Starts processes in one DDS domain; all are gone when the stack closes."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        """Choose the domain."""
        self._folder, self._stack = folder, stack
        self._env = os.environ | loopback_environment() | {"PYTHONUNBUFFERED": "1"}
        source = Path(__file__).resolve().parents[2]
        if source.name not in ("site-packages", "dist-packages"):
            inherited = os.environ.get("PYTHONPATH")
            self._env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(source), inherited]))

    def __call__(self, name: str, arguments: Sequence[str]) -> _Process:
        """Start a process."""
        process = _Process(name, arguments, self._env, self._folder / f"{name}.log")
        self._stack.callback(process.kill)
        return process


def loopback_environment() -> dict[str, str]:
    """Return what keeps DDS on this machine, in a domain that nobody else here uses.

    Fast DDS gets shared memory that holds whole images.
    """
    profile = str(share_file("config/fastdds_loopback.xml"))
    return {
        "ROS_DOMAIN_ID": str(_free_domain()),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "FASTDDS_DEFAULT_PROFILES_FILE": profile,
        "FASTRTPS_DEFAULT_PROFILES_FILE": profile,  # its name before Fast DDS 3
    }


def _free_domain() -> int:
    """Return a ROS domain whose first participant's port nobody on this machine holds."""
    domains = list(range(1, 102))
    random.SystemRandom().shuffle(domains)
    for domain in domains:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                # DDSI-RTPS 9.6.1: 7400 + 250 a domain, + 10 for the first participant
                probe.bind(("", 7410 + 250 * domain))
            except OSError:
                continue
            return domain
    return domains[0]


def _wait_until_recording(recorder: _Process, node: _Process) -> None:
    """Wait until the recorder has found the node's topics."""
    deadline = time.monotonic() + _READY_S
    while "recording" not in recorder.log.read_text(encoding="utf-8", errors="replace"):
        for process in (node, recorder):
            if process.finished():
                raise process.failure("ended before the replay began")
        if time.monotonic() > deadline:
            raise node.failure(f"was not found over DDS within {_READY_S:g} s")
        time.sleep(_POLL_S)


def _wait_until_played(
    player: _Process, others: Sequence[_Process], published: Path, count: int
) -> None:
    """Wait for the player's end, watching the others."""
    with progress_bar() as bar:
        task = bar.add_task("replaying over ROS 2", total=count)
        while not player.finished():
            for process in others:
                if process.finished():
                    raise process.failure("ended during the replay")
            bar.update(task, completed=_count(published))
            time.sleep(_POLL_S)
        bar.update(task, completed=_count(published))


def _wait_until_quiet(answered: Path, count: int) -> None:
    """Wait until every frame has its answer, or no more answers come."""
    have, since = _count(answered), time.monotonic()
    while have < count and time.monotonic() - since < _QUIET_S:
        time.sleep(_POLL_S)
        now = _count(answered)
        if now > have:
            have, since = now, time.monotonic()


def _count(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _lines(path: Path) -> list[dict[str, Any]]:
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.splitlines()]


def _answers(
    played: _Played,
    published: list[dict[str, Any]],
    answered: list[dict[str, Any]],
    peak_mb: float,
    rate: float,
) -> tuple[list[Answer], Transport]:
    """Join what was played and what came back by the images' stamps."""
    sent_ns = {
        stamp_seconds(line["stamp_ns"]): line["published_ns"]
        for line in published
        if line["topic"] == played.image_topic
    }
    came = {stamp_seconds(line["stamp_ns"]): line for line in answered}
    answers = []
    for stamp_s, frame in played.frames:
        line = came.get(stamp_s, {})
        values = line.get("values", {})
        localized = "position" in line
        answers.append(
            Answer(
                name=frame.name,
                stamp_s=frame.stamp_s,
                T_map_cam_true=frame.T_map_cam,
                T_map_cam=pose_from(np.array(line["position"]), np.array(line["orientation"]))
                if localized
                else None,
                reason="" if localized else line.get("reason", ""),
                inliers=int(values.get("inliers", 0)),
                seconds={s: values[f"{s}_ms"] / 1000 for s in STAGES if f"{s}_ms" in values},
                answered=bool(line),
                latency_s=(line["received_ns"] - sent_ns[stamp_s]) / 1e9
                if localized and stamp_s in sent_ns
                else None,
                covariance_66=np.array(line["covariance"]).reshape(6, 6) if localized else None,
            )
        )
    times_s = sorted(line["received_ns"] / 1e9 for line in answered if "position" in line)
    pose_rate_hz = (len(times_s) - 1) / (times_s[-1] - times_s[0]) if len(times_s) > 1 else 0.0
    return answers, Transport(pose_rate_hz=pose_rate_hz, node_peak_mb=peak_mb, rate=rate)
