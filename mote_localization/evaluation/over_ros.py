"""Evaluation over ROS 2: a localizer node, a player and a recorder, three processes over DDS.

This process starts them and reads the files that they write; it does not import ROS.
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
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from mote_localization.errors import ReplayError
from mote_localization.evaluation.metrics import STAGES, Answer, Transport
from mote_localization.geometry import pose_from
from mote_localization.progress import progress_bar, track
from mote_localization.scenes import Frame, Scene, Split
from mote_localization.scenes.bags import IMAGE_TOPIC, INFO_TOPIC, BagScene, BagWriter
from mote_localization.scenes.division import DividedScene
from mote_localization.scenes.scene import NOMINAL_RATE_HZ
from mote_localization.share import share_file
from mote_localization.stamps import stamp_seconds

_START_TIMEOUT_S = 60.0  # for processes to start, load the map and discover each other
_ANSWER_TIMEOUT_S = 2.0  # after so long without an answer, the node has finished
_END_TIMEOUT_S = 15.0  # for a process to end after SIGINT
_POLL_S = 0.1
_LOG_LINES = 12  # last lines of the log of a failed process in the error message
_LOG_LINE_LENGTH = 200  # characters


@dataclass(frozen=True)
class _Recording:
    """The recording to play, and its frames."""

    bag: Path
    image_topic: str
    info_topic: str
    frames: list[tuple[float, Frame]]  # stamp in the recording (s), frame


def replay(
    scene: Scene,
    split: Split,
    map_path: Path,
    backend: str,
    threads: int,
    rate: float = 1.0,
    repeat: int = 1,
) -> tuple[list[Answer], Transport]:
    """Play frames to a localizer node and collect the poses that it publishes.

    DDS uses only the loopback interface and a ROS domain that no other process here uses. Frames of
    a scene folder, and repeated frames, are first written to a temporary recording at 30 Hz; those
    of a recording that the node cannot use, such as compressed images, with their own times.

    Args:
        scene: Scene of the frames.
        split: Split of the frames.
        map_path: Map of the node.
        backend: Backend that runs the network in the node.
        threads: CPU threads of the network; 0: one per core.
        rate: Speed of the replay; 1: as recorded.
        repeat: Number of times that the frames are played.

    Returns:
        An answer for each frame played, and the measurements of the run.

    Raises:
        ReplayError: A process failed; the end of its log is in the message.
        BagError: The temporary recording cannot be written.
    """
    if not 0 < rate < float("inf"):
        raise ReplayError(f"--rate {rate:g}: expected a number above 0")
    if repeat < 1:
        raise ReplayError(f"--repeat {repeat}: expected 1 or more")
    with tempfile.TemporaryDirectory(prefix="mote-") as name:
        folder = Path(name)
        recording = _make_recording(scene, split, repeat, folder)
        published = folder / "published.jsonl"
        answered = folder / "answered.jsonl"
        parameters = {"map": str(map_path.resolve()), "backend": backend, "threads": threads}
        with _system_exit_on_signals(), ExitStack() as stack:
            environment = _process_environment()

            def start(name: str, arguments: Sequence[str]) -> _ChildProcess:
                process = _ChildProcess(name, arguments, environment, folder)
                stack.callback(process.kill)
                return process

            node = start(
                "localizer_main",
                ["--ros-args", "-r", f"image:={recording.image_topic}"]
                + ["-r", f"camera_info:={recording.info_topic}"]
                # ROS reads values as YAML; JSON strings are YAML strings with any characters.
                + [word for k, v in parameters.items() for word in ("-p", f"{k}:={json.dumps(v)}")],
            )
            recorder = start("recorder", [str(answered)])
            _wait_until_recording(recorder, node)
            player = start(
                "player",
                [str(recording.bag), "--rate", f"{rate:g}", "--wait", f"{_START_TIMEOUT_S:g}"]
                + ["--log", str(published)],
            )
            _wait_until_played(player, [node, recorder], published, len(recording.frames))
            _wait_for_last_answers(answered, len(recording.frames))
            peak_mb = node.peak_mb()
            for process in (node, recorder):
                process.end()
        return _join_answers(
            recording, _read_jsonl(published), _read_jsonl(answered), peak_mb, rate
        )


@contextmanager
def _system_exit_on_signals() -> Iterator[None]:
    """Raise SystemExit on SIGTERM and SIGHUP, to end the child processes before this one."""

    def raise_system_exit(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:  # as of nohup
            signal.signal(number, raise_system_exit)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _make_recording(scene: Scene, split: Split, repeat: int, folder: Path) -> _Recording:
    """Return the recording of a scene; write it first unless the node can use it as it is."""
    if isinstance(scene, DividedScene) and scene.count(split) == scene.count("all"):
        scene = scene.whole
    keeps_times = isinstance(scene, BagScene) and repeat == 1
    if isinstance(scene, BagScene) and scene.is_raw and scene.info_topic and repeat == 1:
        recorded: list[tuple[float, Frame]] = [(f.stamp_s, f) for f in scene.frames(split)]
        return _Recording(scene.path, scene.image_topic, scene.info_topic, recorded)
    frames = []
    bag = folder / "recording"
    with BagWriter(bag) as writer:
        repeated = chain.from_iterable(scene.frames(split) for _ in range(repeat))
        total = repeat * scene.count(split)
        for index, frame in enumerate(track(repeated, "writing the recording", total)):
            stamp_s = frame.stamp_s if keeps_times else (index + 1) / NOMINAL_RATE_HZ
            stamp_ns = round(stamp_s * 1e9)
            writer.write(stamp_ns, frame.image(), frame.known_camera())
            frames.append((stamp_seconds(stamp_ns), frame))
    return _Recording(bag, IMAGE_TOPIC, INFO_TOPIC, frames)


# `python -m` would import from the current folder first, which may be anybody's
_RUN_MODULE = (
    "import sys; sys.path[:] = filter(None, sys.path); import runpy; "
    "from mote_localization.nodes.process import end_with_parent; end_with_parent({}); "
    "runpy.run_module('{}', run_name='__main__', alter_sys=True)"
)


class _ChildProcess:
    """A child process and its log file."""

    def __init__(
        self, name: str, arguments: Sequence[str], env: dict[str, str], folder: Path
    ) -> None:
        self.name, self.log = name.removesuffix("_main"), folder / f"{name}.log"
        code = _RUN_MODULE.format(os.getpid(), f"mote_localization.nodes.{name}")
        command = [sys.executable, "-c", code, *arguments]
        with self.log.open("wb") as output:
            self._child = subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    def finished(self) -> bool:
        """Return whether the process has ended with exit code 0; any other code is an error."""
        code = self._child.poll()
        if code:
            raise self.error(f"ended with exit code {code}")
        return code == 0

    def error(self, event: str) -> ReplayError:
        """Return an error with the end of the log in its message."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        tail = "\n  ".join(line[:_LOG_LINE_LENGTH] for line in lines[-_LOG_LINES:])
        return ReplayError(f"the {self.name} {event}; its log ends:\n  {tail or '(empty)'}")

    def peak_mb(self) -> float:
        """Return the peak resident memory in 10^6 bytes; NaN if the system does not report it."""
        try:
            status = Path(f"/proc/{self._child.pid}/status").read_text()
        except OSError:
            return float("nan")
        peaks = [line.split() for line in status.splitlines() if line.startswith("VmHWM")]
        return int(peaks[0][1]) * 1024 / 1e6 if peaks else float("nan")

    def end(self) -> None:
        """Interrupt the process and wait for its end; an exit code other than 0 is an error."""
        if not self.finished():
            self._child.send_signal(signal.SIGINT)
        try:
            self._child.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise self.error(f"did not end within {_END_TIMEOUT_S:g} s of SIGINT") from None
        self.finished()

    def kill(self) -> None:
        """Interrupt the process, and kill it if it does not end."""
        self._child.send_signal(signal.SIGINT)  # no effect after its end, like `kill`
        with suppress(subprocess.TimeoutExpired):
            self._child.wait(3)
        self._child.kill()
        self._child.wait()


def _process_environment() -> dict[str, str]:
    """Return the environment of the processes: one ROS domain, and this version of the package."""
    environment = os.environ | loopback_environment() | {"PYTHONUNBUFFERED": "1"}
    source = Path(__file__).resolve().parents[2]
    if source.name not in ("site-packages", "dist-packages"):
        inherited = os.environ.get("PYTHONPATH")
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(source), inherited]))
    return environment


def loopback_environment() -> dict[str, str]:
    """Return environment variables that keep DDS on this machine, in a free ROS domain.

    The Fast DDS profile has a shared memory segment that is large enough for images.
    """
    profile = str(share_file("config/fastdds_loopback.xml"))
    return {
        "ROS_DOMAIN_ID": str(_free_domain()),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "FASTDDS_DEFAULT_PROFILES_FILE": profile,
        "FASTRTPS_DEFAULT_PROFILES_FILE": profile,  # its name before Fast DDS 3
    }


def _free_domain() -> int:
    """Return a ROS domain that no process on this machine uses: its first port is free."""
    domains = random.SystemRandom().sample(range(1, 102), 101)
    for domain in domains:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                # DDSI-RTPS 9.6.1: 7400 + 250 per domain, + 10 for the first participant
                probe.bind(("", 7410 + 250 * domain))
            except OSError:
                continue
            return domain
    return domains[0]


def _wait_until_recording(recorder: _ChildProcess, node: _ChildProcess) -> None:
    """Wait until the recorder has discovered the topics of the node."""
    deadline = time.monotonic() + _START_TIMEOUT_S
    while "recording" not in recorder.log.read_text(encoding="utf-8", errors="replace"):
        for process in (node, recorder):
            if process.finished():
                raise process.error("ended before the replay began")
        if time.monotonic() > deadline:
            raise node.error(f"was not discovered over DDS within {_START_TIMEOUT_S:g} s")
        time.sleep(_POLL_S)


def _wait_until_played(
    player: _ChildProcess, others: Sequence[_ChildProcess], published: Path, count: int
) -> None:
    """Wait until the player ends; an end of another process is an error."""
    with progress_bar() as bar:
        task = bar.add_task("replaying over ROS 2", total=count)
        while not player.finished():
            for process in others:
                if process.finished():
                    raise process.error("ended during the replay")
            bar.update(task, completed=_count_lines(published))
            time.sleep(_POLL_S)
        bar.update(task, completed=_count_lines(published))


def _wait_for_last_answers(answered: Path, count: int) -> None:
    """Wait until every frame has its answer, or until no answer arrives for a while."""
    received, since = _count_lines(answered), time.monotonic()
    while received < count and time.monotonic() - since < _ANSWER_TIMEOUT_S:
        time.sleep(_POLL_S)
        now = _count_lines(answered)
        if now > received:
            received, since = now, time.monotonic()


def _count_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _read_jsonl(path: Path) -> list[dict[str, Any]]:
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.splitlines()]


def _join_answers(
    recording: _Recording,
    published: list[dict[str, Any]],
    answered: list[dict[str, Any]],
    peak_mb: float,
    rate: float,
) -> tuple[list[Answer], Transport]:
    """Join the frames played and the recorded answers by the stamps of the images."""
    sent_ns = {
        stamp_seconds(line["stamp_ns"]): line["published_ns"]
        for line in published
        if line["topic"] == recording.image_topic
    }
    received = {stamp_seconds(line["stamp_ns"]): line for line in answered}
    answers = []
    for stamp_s, frame in recording.frames:
        line = received.get(stamp_s, {})
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
