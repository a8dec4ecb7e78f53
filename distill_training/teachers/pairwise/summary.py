"""Summary of a reconstruction from photographs, for the user."""

from dataclasses import dataclass

from mote_localization.map_file import UNKNOWN_SCALE

_NAMED = 10  # largest number of unused frames listed with their reasons
_LISTED = 4  # largest number of focal lengths listed one by one


@dataclass(frozen=True)
class Summary:
    """Which photographs and pairs were used, and how well the result agrees."""

    images: int  # training frames of the scene
    unused: dict[str, str]  # frame -> reason
    pairs: int
    pairs_rejected: int
    agreement_cm: float  # median distance of overlapping pointmaps; 1/100 unit if not metric
    agreeing_fraction: float  # of comparable cells, to a tenth of the depth; NaN = no overlap
    focal_px: tuple[float, ...]  # of each lens, pixels of the canonical camera
    focal_known: bool  # all focal lengths are given
    metric: bool  # lengths are in metres
    scale_uncertainty: float | None  # 1 sigma over the scale; None = unknown
    poses_known: bool  # poses are used unchanged
    by_sfm: bool = False  # structure from motion found poses, focal lengths and scale

    def described(self) -> dict[str, str]:
        """Return the rows of a table to print: name and value."""
        rows = {"images": f"{self.images - len(self.unused)} of {self.images} used"}
        if self.unused:
            lines = [f"{name}: {reason}" for name, reason in self.unused.items()]
            if len(lines) > _NAMED:
                lines[_NAMED:] = [f"and {len(lines) - _NAMED} more"]
            rows["not used"] = "\n".join(lines)
        rows["pairs"] = f"{self.pairs} predicted, {self.pairs_rejected} of them rejected"
        unit = "cm" if self.metric else "hundredths of a unit"
        rows["residual"] = f"{self.agreement_cm:.1f} {unit}, median where pointmaps overlap"
        rows["agreeing"] = (
            f"{self.agreeing_fraction:.0%} of overlapping cells, to a tenth of the depth"
        )
        if self.by_sfm:  # it printed its own table
            return rows | {"poses, focal length, scale": "by structure from motion"}
        rows["poses"] = "given" if self.poses_known else "estimated"
        rows["focal length"] = "given" if self.focal_known else self._estimated_focal_lengths()
        rows["scale"] = self._scale()
        return rows

    def _estimated_focal_lengths(self) -> str:
        all_px = self.focal_px
        lengths = ", ".join(f"{length:.1f}" for length in all_px) + " px"
        if len(all_px) > _LISTED:
            lengths = f"{min(all_px):.1f} to {max(all_px):.1f} px of {len(all_px)} lenses"
        return f"estimated, {lengths} in the canonical camera"

    def _scale(self) -> str:
        if self.poses_known:
            return "metres, from the given poses"
        if not self.metric:
            return f"{UNKNOWN_SCALE}; measure a length in the place and give it with --scale-from"
        if self.scale_uncertainty is None:
            return "metres, uncertainty unknown: give two lengths or more with --scale-from"
        return f"metres, 1 sigma {100 * self.scale_uncertainty:.1f} %"
