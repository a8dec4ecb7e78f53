"""A scene without some of its training frames, which lack a pose or depth."""

from collections.abc import Collection, Iterator

from mote_localization.scenes.scene import Frame, Scene, SceneSelection, Split


class TrainingSelection(SceneSelection):
    """A scene without some of its training frames, and with all its test frames."""

    def __init__(self, whole: Scene, left_out: Collection[str]) -> None:
        """Leave out the training frames of these names."""
        super().__init__(whole)
        self._left_out = frozenset(left_out)

    def frames(self, split: Split) -> Iterator[Frame]:
        """Iterate over the frames of a split, in recording order."""
        left_out = self._left_out if split != "test" else frozenset()
        return (frame for frame in self.whole.frames(split) if frame.name not in left_out)

    def count(self, split: Split) -> int:
        """Return the number of frames of a split."""
        return self.whole.count(split) - (len(self._left_out) if split != "test" else 0)
