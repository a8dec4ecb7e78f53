"""The table of a bundle's submaps, for terminals."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mote_localization.bundles.bundle_file import Bundle
from mote_localization.validated_poses import validation_text


def print_bundle(bundle: Bundle) -> None:
    """Print a row for each submap."""
    title = f"{bundle.path}: {bundle.scene}, {len(bundle.submaps)} submaps"
    table = Table(title=Text(title), title_justify="left")
    for column in ("submap", "bounds", "keyframes", "MiB", "validation"):
        table.add_column(column)
    for number, submap in enumerate(bundle.submaps):
        info = submap.info
        bounds = zip("xyz", info.bounds_min, info.bounds_max, strict=True)
        table.add_row(
            submap.name,
            ", ".join(f"{axis} {low:.1f} to {high:.1f}" for axis, low, high in bounds),
            f"{len(submap.keyframe_poses_k44)}",
            f"{len(bundle.map_file(number).model) / 2**20:.1f}",
            validation_text(info.validation, info.unit) if info.validation else "none",
        )
    Console().print(table)
