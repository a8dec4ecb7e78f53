"""A scene without the training frames whose pose is not known."""

from collections.abc import Iterator

from mote_localization.scenes.scene import Frame, Scene, Split


class PosedScene(Scene):
    """The training frames of a scene that have a pose, and all its test frames."""

    def __init__(self, scene: Scene) -> None:
        """Leave out training frames without a pose."""
        self._scene, self.name, self.layout = scene, scene.name, scene.layout
        self.sequential, self.metric = scene.sequential, scene.metric

    def frames(self, split: Split) -> Iterator[Frame]:
        """Iterate over the frames of a split, in recording order."""
        left_out = set()
        if split != "test":
            left_out = {f.name for f in self._scene.frames("train") if f.T_map_cam is None}
        return (frame for frame in self._scene.frames(split) if frame.name not in left_out)

    def count(self, split: Split) -> int:
        """Return the number of frames of a split."""
        return sum(1 for _ in self.frames(split))

    def described(self) -> dict[str, str]:
        """Return what the whole scene holds."""
        return self._scene.described()
