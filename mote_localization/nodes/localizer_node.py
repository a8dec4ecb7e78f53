"""The localizer node: a lifecycle node that loads a map and localizes images in it."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from rcl_interfaces.msg import SetParametersResult
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter as RosParameter

from mote_localization.backends import Chosen
from mote_localization.bundles import is_bundle
from mote_localization.bundles.bundle_localizer import AnyLocalizer, load_localizer
from mote_localization.errors import ConfigError, MapFileError, MoteError, first_line
from mote_localization.map_file import UNKNOWN_SCALE
from mote_localization.map_to_odom import OdometryConfig
from mote_localization.nodes.active_localizer import ActiveLocalizer
from mote_localization.nodes.entities import Entities
from mote_localization.nodes.node_parameters import PARAMETERS
from mote_localization.nodes.pose_requests import PoseRequests
from mote_localization.nodes.process import free_memory, in_thread, stop_pending, unless_stopped
from mote_localization.nodes.rig_input import cameras_of, check_inputs
from mote_localization.pose_gates import LocalizerConfig
from mote_localization.robot_frames import FrameConfig

_SWAP_PERIOD_S = 0.2  # between two checks whether the next map is loaded
_FIXED = {p.name for p in PARAMETERS if p.fixed}  # while the node is configured


class _Loaded(NamedTuple):
    """A map that is loaded into a backend."""

    localizer: AnyLocalizer
    chosen: Chosen
    frames: FrameConfig
    values: dict[str, Any]  # parameters by name


class _NextMap:
    """A map that is loaded in a thread."""

    def __init__(self, path: str, load: Callable[[], _Loaded]) -> None:
        self.path = path
        self.loading = in_thread(load)

    def discard(self) -> None:
        """Wait until the map is loaded, and free it, unless the process ends."""
        if not stop_pending() and self.loading.exception() is None:
            self.loading.result().localizer.close()


class LocalizerNode(LifecycleNode):
    """Configure loads the map, activate subscribes to the images; both can be undone."""

    def __init__(self, node_name: str = "localizer", **options: Any) -> None:
        """Declare the parameters.

        Args:
            node_name: Name of the node.
            options: Of `rclpy.node.Node`.
        """
        self._loaded: _Loaded | None = None  # from configure to cleanup
        self._active: ActiveLocalizer | None = None  # from activate to deactivate
        self._next: _NextMap | None = None  # a map that is loaded beside the present one
        self._error: MoteError | None = None  # of the last transition
        self._logs_errors = True  # of transitions; at the start, they are raised
        super().__init__(node_name, **options)
        self._swapping = Entities(self)  # a timer, while another map is loaded
        self._requests = PoseRequests(self)
        for p in PARAMETERS:
            self.declare_parameter(p.name, p.default, p.descriptor())
        self.add_on_set_parameters_callback(self._on_parameters)

    @classmethod
    def started(cls) -> LocalizerNode:
        """Return the node, active unless the parameter `autostart` is false.

        Raises:
            MoteError: The map, the backend or a parameter cannot be used.
        """
        node = cls()
        if node._values()["autostart"]:
            node._logs_errors = False
            for transition in (node.trigger_configure, node.trigger_activate):
                done = transition()
                if node._error is not None or done != TransitionCallbackReturn.SUCCESS:
                    error = node._error or MoteError("the node does not start")
                    node.destroy_node()
                    raise error
            node._logs_errors = True
        else:
            node.get_logger().info("waits for a lifecycle manager: autostart is false")
        return node

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the map; on failure, the error is logged and the node stays unconfigured."""
        return self._try(self._load)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe to the images."""
        return self._try(self._activate)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe."""
        self._deactivate()
        return TransitionCallbackReturn.SUCCESS

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe and free the map; the node can be configured again."""
        self.close()
        return TransitionCallbackReturn.SUCCESS

    on_shutdown = on_error = on_cleanup

    def close(self) -> None:
        """Unsubscribe, end all threads and free the map."""
        self._deactivate()
        if self._next:
            self._next.discard()
            self._next = None
        if self._loaded:
            self._loaded.localizer.close()
        self._loaded = None
        free_memory()

    def destroy_node(self) -> None:
        """Close and destroy the node."""
        self._requests.abandon()
        self.close()
        super().destroy_node()

    def _try(self, action: Any) -> TransitionCallbackReturn:
        self._error = None
        try:
            action()
        except MoteError as error:
            self._error = error
            if self._logs_errors:
                self.get_logger().error(str(error))
            return TransitionCallbackReturn.FAILURE
        except Exception as error:  # rclpy would not log it
            self.get_logger().error(f"internal error:\n{traceback.format_exc()}")
            name = type(error).__name__
            self._error = MoteError(f"internal error: {name}: {first_line(error, 200)}")
            return TransitionCallbackReturn.FAILURE
        return TransitionCallbackReturn.SUCCESS

    def _load(self) -> None:
        values = self._values()
        # The thread must not hold the node, which is destroyed before the thread ends.
        self._loaded = unless_stopped(partial(_loaded_from, values))
        self._warn_of_unknown_scale(self._loaded)
        self._loaded.localizer.prepare_search()

    def _values(self) -> dict[str, Any]:
        """Return all parameters; those that ROS takes as not set, as [], have their defaults."""
        defaults = {p.name: RosParameter(p.name, value=p.default) for p in PARAMETERS}
        return {name: self.get_parameter_or(name, one).value for name, one in defaults.items()}

    def _warn_of_unknown_scale(self, loaded: _Loaded) -> None:
        if not loaded.localizer.info.metric:
            self.get_logger().warning(
                f"{loaded.values['map']}: the map's scale is {UNKNOWN_SCALE}; poses, clouds and "
                "the parameters that end in _m are not in metres: do not fuse the poses with "
                "odometry"
            )

    def _load_beside(self, path: str) -> str:
        """Start to load another map; return why it cannot be loaded."""
        if self._next:
            return f"map: {self._next.path} is being loaded; try again later"
        expanded = os.path.expanduser(path)
        if not os.path.isfile(expanded) and not (is_bundle(path) and os.path.isdir(expanded)):
            return f"map: {path[:200]} is not a file"
        values = {**self._values(), "map": path}
        self._next = _NextMap(path, partial(_loaded_from, values))
        self._swapping.timer(_SWAP_PERIOD_S, self._swap_if_loaded)
        return ""

    def _swap_if_loaded(self) -> None:
        """Localize in the next map as soon as it is loaded."""
        if self._next and not self._next.loading.done():
            return
        self._swapping.close()
        if self._next and self._loaded:  # not cleaned up meanwhile
            path, loading = self._next.path, self._next.loading
            self._next = None
            error = loading.exception()
            if error is None:
                self._swap(self._loaded.localizer, loading.result())
                free_memory()
                return
            kept = self._loaded.values["map"]
            self.get_logger().error(f"{path}: cannot be used, {kept} stays in use: {error}")
            self.set_parameters([RosParameter("map", value=kept)])

    def _swap(self, before: AnyLocalizer, loaded: _Loaded) -> None:
        active = self._active
        self._deactivate()
        self._loaded = loaded
        self._warn_of_unknown_scale(loaded)
        loaded.localizer.config = before.config
        before.close()
        loaded.localizer.prepare_search()
        if active:
            self._activate(active.enabled)

    def _activate(self, enabled: bool = True) -> None:
        if self._loaded is None:
            raise MoteError("the node is not configured")
        localizer, chosen, frames, values = self._loaded
        self._active = ActiveLocalizer(
            self, localizer, chosen, frames, values, self._requests, enabled
        )
        self.get_logger().info(
            f"localizing {self._active.image_topics} in '{localizer.info.scene}' ({values['map']})"
        )

    def _deactivate(self) -> None:
        if self._active:
            self._active.close()
        self._active = None

    def _on_parameters(self, changed: list[RosParameter]) -> SetParametersResult:
        values = {p.name: p.value for p in changed}
        if self._loaded is None:
            return SetParametersResult(successful=True)
        fixed = sorted(_FIXED & values.keys())
        if fixed:
            return SetParametersResult(
                successful=False,
                reason=f"{', '.join(fixed)}: fixed while the node is configured; clean it up first",
            )
        localizer = self._loaded.localizer
        present = self._next.path if self._next else self._loaded.values["map"]
        try:
            config = localizer.config.with_parameters(values)
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        reason = ""
        if values.get("map", present) != present:
            reason = self._load_beside(values["map"])
        if not reason:
            localizer.config = config
        return SetParametersResult(successful=not reason, reason=reason)


def _loaded_from(values: dict[str, Any]) -> _Loaded:
    """Return the map that the parameters name, loaded.

    Raises:
        MoteError: The map, the backend or a parameter cannot be used.
    """
    if not values["map"]:
        raise MapFileError("parameter `map` is empty; give it a map file: -p map:=kitchen.onnx")
    config = LocalizerConfig().with_parameters(values)
    frames = _frame_config(values)
    check_inputs(values)
    path = os.path.expanduser(values["map"])
    localizer, chosen = load_localizer(path, values["backend"], values["threads"], config)
    camera = localizer.info.camera
    # The first inference is slow, so it runs before the first image of the robot arrives.
    localizer.localize(np.zeros((camera.height, camera.width, 3), np.uint8), camera)
    return _Loaded(localizer, chosen, frames, values)


def _frame_config(values: dict[str, Any]) -> FrameConfig:
    """Return the frames that the parameters name.

    Raises:
        FrameError: They are not consistent.
    """
    broadcast = values["publish_tf"]
    return FrameConfig(
        map_frame=values["map_frame"],
        odom_frame=values["odom_frame"],
        base_frame=values["base_frame"],
        broadcast="off" if broadcast is False else broadcast,  # YAML reads off as false
        several_cameras=bool(cameras_of(values)),
        odometry=OdometryConfig(confirmations=values["confirmations"]),
    )
