"""A person who stands in the demo room, made of prisms."""

from demo_room.palette import BLACK, CREAM, NAVY, RUST, VIVID, WALNUT
from demo_room.shapes import Builder
from demo_room.textures import cloth, plain

_SKIN = (206, 158, 128)


def person(place: Builder) -> None:
    """Add a person of 1.75 m in a printed shirt and trousers, who faces y < 0."""
    shirt, trousers = cloth(RUST, (CREAM, NAVY, VIVID[1])), cloth(NAVY, (VIVID[7],))
    skin, hair = plain(_SKIN), plain(WALNUT, 0.12)
    for x in (-0.1, 0.1):
        place.box((x - 0.05, -0.2, 0.0), (0.1, 0.28, 0.08), plain(BLACK), skip="bottom")
        place.round((x, 0.0, 0.07), 0.075, 0.45, trousers)
        place.round((x, 0.0, 0.5), 0.095, 0.45, trousers)
    for x in (-0.08, 0.08):
        place.round((x, 0.0, 0.9), 0.125, 0.3, shirt)
        place.round((x, 0.0, 1.2), 0.14, 0.25, shirt, top=shirt)
    for x, forward in ((-0.26, 0.0), (0.26, -0.05)):
        place.round((x, 0.0, 1.12), 0.055, 0.33, shirt, facets=8, top=shirt)
        place.round((x, forward / 2, 0.86), 0.045, 0.26, shirt, facets=8)
        place.round((x, forward, 0.74), 0.04, 0.12, skin, facets=8)
    place.round((0.0, 0.0, 1.45), 0.055, 0.09, skin, facets=8)
    for z, radius, tall in ((1.52, 0.07, 0.04), (1.56, 0.09, 0.08), (1.64, 0.085, 0.03)):
        place.round((0.0, -0.015, z), radius, tall, skin)
    for y, z, radius, tall in ((0.03, 1.55, 0.085, 0.13), (0.0, 1.66, 0.1, 0.06)):
        place.round((0.0, y, z), radius, tall, hair, top=hair)
    place.round((0.0, 0.0, 1.715), 0.08, 0.035, hair, top=hair)
