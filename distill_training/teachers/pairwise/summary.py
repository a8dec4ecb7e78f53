"""What became of photographs, for the one who took them."""

from collections.abc import Sequence
from dataclasses import dataclass

from mote_localization.map_file import UNKNOWN_SCALE

_NAMED = 10  # frames, at most, that are named with the reason why they are not used
_LISTED = 4  # focal lengths, at most, that are listed one by one


@dataclass(frozen=True)
class Summary:
    """What became of the photographs."""

    images: int
    refused: dict[str, str]  # frame -> why it is not used
    pairs: int
    pairs_refused: int
    agreement_cm: float  # median distance of overlapping pointmaps; hundredths of a unit
    agreeing: float  # share of what overlapping pointmaps show that agrees; NaN: no overlap
    focal_px: tuple[float, ...]  # of each lens, in the canonical camera's pixels
    focal_known: bool
    metric: bool
    scale_uncertainty: float | None  # 1 sigma, as a share; None: not known
    poses_known: bool  # given, and taken as they are

    def described(self) -> dict[str, str]:
        """Return names and values to print."""
        rows = {"images": f"{self.images - len(self.refused)} of {self.images} used"}
        if self.refused:
            lines = [f"{name}: {why}" for name, why in self.refused.items()]
            if len(lines) > _NAMED:
                lines[_NAMED:] = [f"and {len(lines) - _NAMED} more"]
            rows["refused"] = "\n".join(lines)
        rows["pairs"] = f"{self.pairs} looked at, {self.pairs_refused} of them refused"
        unit = "cm" if self.metric else "hundredths of a unit"
        rows["residual"] = f"{self.agreement_cm:.1f} {unit}, median where pointmaps overlap"
        rows["agreeing"] = f"{self.agreeing:.0%} of it, to a tenth of the depth"
        rows["poses"] = "given" if self.poses_known else "estimated"
        rows["focal length"] = "given" if self.focal_known else _listed(self.focal_px)
        rows["scale"] = self._scale()
        return rows

    def _scale(self) -> str:
        if self.poses_known:
            return "metres, by the given poses"
        if not self.metric:
            return f"{UNKNOWN_SCALE}; measure a length in the place and give it: --scale-from"
        if self.scale_uncertainty is None:
            return "metres, nobody knows how well; two lengths or more with --scale-from would tell"
        return f"metres, 1 sigma {100 * self.scale_uncertainty:.1f} %"


def _listed(focal_px: Sequence[float]) -> str:
    """Return estimated focal lengths in words."""
    if len(focal_px) > _LISTED:
        lengths = f"{min(focal_px):.1f} to {max(focal_px):.1f} px of {len(focal_px)} lenses"
    else:
        lengths = ", ".join(f"{length:.1f}" for length in focal_px) + " px"
    return f"estimated, {lengths} in the map's camera"
