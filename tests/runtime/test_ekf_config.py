"""config/ekf.yaml in the filter of robot_localization, computed here, with real messages."""

from dataclasses import dataclass, field
from operator import attrgetter

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy", reason="needs ROS 2 messages")

from builtin_interfaces.msg import Time
from conftest import ROOT
from nav_msgs.msg import Odometry
from std_msgs.msg import Header

from mote_localization.geometry import covariance_at, exp_rotation, pose_from, retract, rigid
from mote_localization.nodes import conversions
from mote_localization.stamps import nanoseconds

SECONDS, TICK_NS = 24.0, 33_333_333
GAPS_S = [(8.0, 9.5), (15.0, 17.0)]  # without poses
# states of the filter: x y z, roll pitch yaw, their velocities, accelerations of x y z
YAW = 5
OUT_OF_PLANE = [2, 3, 4, 8, 9, 10, 14]

# x, y, yaw (m, rad) and deviation of x (m) that ekf_node of robot_localization 3.6.0 published, by
# stamp. Measured with config/ekf.yaml and the messages of `drive()`: in simulated time, one tick of
# /clock per period of the node's timer, each message sent before the first tick after its arrival.
# 9.38 and 16.88 s are the ends of GAPS_S. Measure again if config/ekf.yaml or `drive` changes.
EKF_NODE = {
    1_980_000_000: (0.2101, 0.1144, 0.6446, 0.0159),
    5_980_000_000: (0.1027, 1.8108, 2.6461, 0.0147),
    9_380_000_000: (-1.3016, 1.3017, -1.9272, 0.0789),
    11_980_000_000: (-0.9911, 0.1288, -0.6440, 0.0177),
    16_880_000_000: (-1.4775, -1.6915, -3.0565, 0.0900),
    19_980_000_000: (-2.5734, -0.7839, 1.6558, 0.0214),
    22_980_000_000: (-1.9676, 0.2454, 0.3922, 0.0092),
}


@dataclass
class Drive:
    """A simulated drive: `messages` are arrival (s), topic and message, in this order."""

    truth_n3: np.ndarray  # x y yaw at each millisecond
    messages: list[tuple[float, str, Odometry]] = field(default_factory=list)
    wheels: dict[int, np.ndarray] = field(default_factory=dict)  # T_odom_base by stamp, ns


def drive(start_ns: int = 0, deviation: float = 1.0, seed: int = 0) -> Drive:
    """Return a figure of eight at 0.5 m/s. Odometry is 3 % too short, and turns by 0.6 deg/s.

    A pose errs by about `deviation` cm and 0.3 `deviation` degrees: the camera turns about points
    at a distance of 2 m, so that its position and its rotation err together.
    """
    rng = np.random.default_rng(seed)
    ms = np.arange(round(1e3 * SECONDS))
    speed = 0.5 * np.clip(ms / 1e3 - 1, 0, 1) * np.clip(SECONDS - 1 - ms / 1e3, 0, 1)
    rate = np.where(ms < len(ms) / 2, speed, -speed)  # radius 1 m
    yaw = 0.4 + np.cumsum(rate) / 1e3
    xy = np.cumsum(speed * np.stack([np.cos(yaw), np.sin(yaw)]), axis=1) / 1e3
    driven = Drive(np.stack([*xy, yaw], axis=1))

    T_odom_base = np.eye(4)
    for k in ms[::20]:
        errors = rng.normal([0, 0.01], 0.01) if speed[k] else [0, 0]
        v, turn = [0.97 * speed[k], rate[k]] + np.array(errors)
        T_odom_base = T_odom_base @ planar(0.02 * v, 0, 0.02 * turn)
        stamp_ns = int(start_ns + k * 10**6)
        header = Header(stamp=time_of(stamp_ns), frame_id="odom")
        message = Odometry(header=header, child_frame_id="base_link")
        message.pose = conversions.pose_message(header, T_odom_base, np.eye(6)).pose
        message.twist.twist.linear.x, message.twist.twist.angular.z = float(v), float(turn)
        message.twist.covariance = (1e-3 * np.eye(6)).reshape(36)
        driven.messages.append((k / 1e3 + 0.002, "/odom", message))
        driven.wheels[stamp_ns] = T_odom_base

    seconds = 0.5
    while seconds < SECONDS - 0.1:
        k = round(1e3 * seconds)
        covariance_66 = covariance_at(
            deviation**2 * np.diag([0.004**2] * 3 + [np.radians(0.3) ** 2] * 3),
            exp_rotation(np.array([0, 0, yaw[k]])) @ [-2, 0, -0.3],
        )
        error_6 = np.linalg.cholesky(covariance_66) @ rng.normal(size=6)
        late_s = rng.uniform(0.02, 0.05)
        if not any(first <= seconds < last for first, last in GAPS_S):
            header = Header(stamp=time_of(int(start_ns + k * 10**6 + 10**5)), frame_id="map")
            T_map_base = retract(planar(*driven.truth_n3[k]), error_6)
            pose = conversions.pose_message(header, T_map_base, covariance_66)
            message = conversions.odometry_message(pose, "base_link")
            driven.messages.append((k / 1e3 + late_s, "/localizer/odometry", message))
        seconds += rng.uniform(1 / 15, 1 / 10)
    driven.messages.sort(key=lambda message: message[0])
    return driven


def planar(x: float, y: float, yaw: float) -> np.ndarray:
    return rigid(exp_rotation(np.array([0, 0, yaw])), np.array([x, y, 0.0]))


def wrapped(angle):
    """Return the angle in [-pi, pi)."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


def time_of(ns: int) -> Time:
    return Time(sec=ns // 10**9, nanosec=ns % 10**9)


@dataclass
class Measurement:
    stamp_ns: int
    chosen: np.ndarray  # which states
    values: np.ndarray
    covariance: np.ndarray


@dataclass
class Estimate:
    stamp_ns: int
    state_15: np.ndarray
    covariance: np.ndarray  # (15, 15)
    measurement: Measurement  # the last one


class Filter:
    """The extended Kalman filter of robot_localization with `two_d_mode` and `smooth_lagged_data`.

    Roll and pitch stay 0, because `two_d_mode` measures that they are.
    """

    def __init__(self, config: dict):
        self.inputs = {config[f"odom{k}"]: np.array(config[f"odom{k}_config"]) for k in (0, 1)}
        self.config = config
        self.waiting: list[Measurement] = []
        self.estimates: list[Estimate] = []

    def add(self, topic: str, message: Odometry) -> None:
        """Take the selected states of a message."""
        selected = self.inputs[topic].copy()
        values, R = np.zeros(15), np.zeros((15, 15))
        if selected[:6].any():
            assert message.header.frame_id == self.config["world_frame"]
            position, q = message.pose.pose.position, message.pose.pose.orientation
            T = pose_from([position.x, position.y, position.z], [q.x, q.y, q.z, q.w])
            values[:3], values[YAW] = T[:3, 3], np.arctan2(T[1, 0], T[0, 0])
            R[:6, :6] = message.pose.covariance.reshape(6, 6)
        if selected[6:12].any():
            assert message.child_frame_id == self.config["base_link_frame"]
            v, turn = message.twist.twist.linear, message.twist.twist.angular
            values[6:12] = v.x, v.y, v.z, turn.x, turn.y, turn.z
            R[6:12, 6:12] = message.twist.covariance.reshape(6, 6)
        selected[OUT_OF_PLANE] = True
        values[OUT_OF_PLANE] = 0
        R[OUT_OF_PLANE, OUT_OF_PLANE] = 1e-6  # other elements of these rows stay
        chosen = np.flatnonzero(selected)
        stamp_ns = nanoseconds(message.header.stamp)
        self.waiting.append(
            Measurement(stamp_ns, chosen, values[chosen], R[np.ix_(chosen, chosen)])
        )

    def update(self) -> Estimate:
        """Apply the measurements in the order of their stamps, and later ones again."""
        first_ns = min(measurement.stamp_ns for measurement in self.waiting)
        while self.estimates and self.estimates[-1].stamp_ns > first_ns:
            self.waiting.append(self.estimates.pop().measurement)
        for measurement in sorted(self.waiting, key=attrgetter("stamp_ns")):
            self.estimates.append(self.corrected(measurement))
        self.waiting = []
        return self.estimates[-1]

    def corrected(self, measurement: Measurement) -> Estimate:
        chosen, R = measurement.chosen, measurement.covariance
        if not self.estimates:
            x, P = np.zeros(15), np.diag(self.config["initial_estimate_covariance"])
            x[chosen], P[np.ix_(chosen, chosen)] = measurement.values, R
            return Estimate(measurement.stamp_ns, x, P, measurement)
        x, P = self.predicted(measurement.stamp_ns)
        K = P[:, chosen] @ np.linalg.inv(P[np.ix_(chosen, chosen)] + R)
        innovation = measurement.values - x[chosen]
        turn = chosen == YAW
        innovation[turn] = wrapped(innovation[turn])
        x = x + K @ innovation
        x[YAW] = wrapped(x[YAW])
        rest = np.eye(15)
        rest[:, chosen] -= K
        P = rest @ P @ rest.T + K @ R @ K.T
        return Estimate(measurement.stamp_ns, x, P, measurement)

    def predicted(self, stamp_ns: int) -> tuple[np.ndarray, np.ndarray]:
        last = self.estimates[-1]
        seconds = (stamp_ns - last.stamp_ns) / 1e9
        F = np.eye(15)
        F[:3, 6:9] = exp_rotation(np.array([0, 0, last.state_15[YAW]])) * seconds
        F[:3, 12:] = F[:3, 6:9] * seconds / 2
        F[3:6, 9:12] = F[6:9, 12:] = np.eye(3) * seconds
        x = F @ last.state_15
        F[:2, YAW] = last.state_15[1] - x[1], x[0] - last.state_15[0]
        noise = np.diag(self.config["process_noise_covariance"]) * seconds
        return x, F @ last.covariance @ F.T + noise


def published(config: dict, driven: Drive) -> list[Estimate]:
    """Return what the node publishes: the last estimate at each tick."""
    one, waiting, found = Filter(config), driven.messages[::-1], []
    for tick_ns in range(TICK_NS, round(SECONDS * 1e9), TICK_NS):
        while waiting and waiting[-1][0] <= tick_ns / 1e9:
            one.add(*waiting.pop()[1:])
        found.append(one.update())
    return found


def errors_cm(driven: Drive, estimates: list[Estimate]) -> np.ndarray:
    """Return the distances to the true positions, after the first second."""
    late = [e for e in estimates if e.stamp_ns > 10**9]
    truth_n3 = driven.truth_n3[[e.stamp_ns // 10**6 for e in late]]
    return 100 * np.linalg.norm([e.state_15[:2] for e in late] - truth_n3[:, :2], axis=1)


@pytest.fixture(scope="module")
def config() -> dict:
    content = yaml.safe_load((ROOT / "config" / "ekf.yaml").read_text())
    return content["ekf_map"]["ros__parameters"]


@pytest.fixture(scope="module")
def driven() -> Drive:
    return drive()


@pytest.fixture(scope="module")
def estimates(config, driven) -> list[Estimate]:
    return published(config, driven)


def test_the_filter_follows_the_robot_while_odometry_drifts(driven, estimates):
    errors = errors_cm(driven, estimates)
    assert np.median(errors) < 1 and np.percentile(errors, 95) < 3
    alone = planar(*driven.truth_n3[0]) @ list(driven.wheels.values())[-1]
    assert np.linalg.norm(alone[:2, 3] - driven.truth_n3[-1, :2]) > 0.2


def test_the_filter_is_that_of_robot_localization(estimates):
    by_stamp = {e.stamp_ns: e for e in estimates}
    for stamp_ns, expected in EKF_NODE.items():
        found = by_stamp[stamp_ns]
        sigma = np.sqrt(found.covariance[0, 0])
        np.testing.assert_allclose([*found.state_15[[0, 1, YAW]], sigma], expected, atol=1e-4)


def test_uncertain_poses_do_not_make_the_filter_diverge(config):
    driven = drive(deviation=5)
    estimates = published(config, driven)
    assert min(np.diag(e.covariance).min() for e in estimates) > 0
    assert errors_cm(driven, estimates).max() < 8
