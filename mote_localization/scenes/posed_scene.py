"""A scene without the training frames whose pose is not known."""

from collections.abc import Iterator

from mote_localization.scenes.scene import Frame, Scene, SceneSelection, Split


class PosedScene(SceneSelection):
    """The training frames of a scene that have a pose, and all its test frames."""

    def __init__(self, whole: Scene) -> None:
        """Leave out training frames without a pose."""
        super().__init__(whole)
        self._left_out = {f.name for f in whole.frames("train") if f.T_map_cam is None}

    def frames(self, split: Split) -> Iterator[Frame]:
        """Iterate over the frames of a split, in recording order."""
        left_out = self._left_out if split != "test" else set()
        return (frame for frame in self.whole.frames(split) if frame.name not in left_out)

    def count(self, split: Split) -> int:
        """Return the number of frames of a split."""
        return self.whole.count(split) - (len(self._left_out) if split != "test" else 0)
