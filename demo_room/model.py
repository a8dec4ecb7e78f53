"""Layout of the demo room, 6 x 5 x 2.7 m.

            north                        x east, y north, z up, origin in the south-west
  +---------------------------+ 5        corner of the floor.
  | books   sofa, three  lamp |
  |         paintings   plant |          Each wall has its own axes (see `shapes.py`): x along
w |                           | e        the wall to the right, seen from the room, and
e | dining   low table      w | a        y = 0 on its surface. The origin of the north wall is
s | table    on a rug       i | s        in the west, of the east wall in the north, of the
t |                         n | t        south wall in the east, of the west wall in the south.
  |               armchair    |
  | kitchen   fridge     door |
  +---------------------------+ 0
  0         south             6
"""

from functools import lru_cache

import numpy as np

from demo_room import furniture
from demo_room.days import RECORDED, Day
from demo_room.furniture import frame, plant
from demo_room.light import Lamp, Lighting, Sun, compute_light, expose
from demo_room.objects import clock, pinned
from demo_room.palette import (
    BLACK,
    BRASS,
    CREAM,
    DUSK,
    MUTED,
    NAVY,
    OAK,
    PINE,
    RUST,
    SAGE,
    SKY,
    TEAK,
    VIVID,
    WALNUT,
    WHITE,
    Colour,
)
from demo_room.person import person
from demo_room.pictures import abstract, bouquet, city, landscape, poster, view
from demo_room.shapes import Block, Builder
from demo_room.textures import (
    COARSE,
    Material,
    bricks,
    cloth,
    curtain,
    panelled,
    plain,
    planks,
    plaster,
    rug,
    wood,
)

SIZE_M = (6.0, 5.0, 2.7)
SEED = 20

# The window's panes on the east wall: y0, z0, y1, z1 in the map frame.
PANES = ((1.22, 0.98, 1.98, 2.22), (2.06, 0.98, 2.82, 2.22))


@lru_cache(maxsize=4)
def build(day: Day = RECORDED) -> Builder:
    """Return the room: all rectangles, and the blocks that light and robots cannot pass.

    A rectangle's texture depends on its number, so what only some days have comes last.
    """
    room = Builder()
    rng = np.random.default_rng(SEED)
    length, depth, height = SIZE_M
    north = room.at(0.0, depth)
    east = room.at(length, depth, degrees=-90)
    south = room.at(length, 0.0, degrees=180)
    west = room.at(0.0, 0.0, degrees=90)
    ceiling_lamp, table_lamp, floor_lamp = day.lamps

    floor_and_ceiling(room)
    wall(north, length, plaster((222, 206, 176)), skirting=WHITE)
    wall(east, depth, plaster((164, 182, 172)), skirting=WHITE)
    wall(south, length, plaster((226, 216, 200)), skirting=WHITE)
    wall(west, depth, bricks(((168, 92, 66), (150, 78, 58), (186, 116, 84), (120, 70, 58))), OAK)

    furniture.bookcase(north.at(0.35, 0.0), rng, day, width=2.0)
    paintings(north, day)
    furniture.sofa(north.at(2.75, -0.06), width=2.05)
    furniture.floor_lamp(room.at(5.1, 4.62), floor_lamp)
    plant(day.at(room, "floor plant", 5.62, 4.6), rng, leaves=22, tall=1.05)

    window(east, day)
    furniture.cabinet(east.at(0.75, 0.0), rng)

    door(south.at(0.55, 0.0))
    coats(south.at(1.62, 0.0))
    furniture.fridge(south.at(2.62, 0.0), day)
    furniture.kitchen(south.at(3.4, 0.0), rng)

    furniture.sideboard(west.at(3.35, 0.0), rng, floor_lamp)
    west_wall(west)

    furniture.dining_table(room.at(0.95, 2.2, degrees=84))
    furniture.chair(day.at(room, "rust chair", 1.62, 2.52, degrees=-82), RUST)
    furniture.chair(day.at(room, "navy chair", 1.66, 1.86, degrees=-104), NAVY)
    furniture.chair(day.at(room, "sage chair", 0.95, 1.28, degrees=172), SAGE)
    furniture.low_table(room.at(3.72, 2.72, degrees=-7), rng, day)
    rugs(room)
    furniture.armchair(day.at(room, "armchair", 4.62, 1.12, degrees=152))
    furniture.pouf(day.at(room, "pouf", 5.35, 1.85, degrees=25))
    ceiling_lights(room, ceiling_lamp, table_lamp)
    if day.blind_m:
        blind(east, day.blind_m)
    if day.person:
        x, y, degrees = day.person
        person(room.at(x, y, degrees=degrees))
    return room


def lighting(day: Day = RECORDED) -> Lighting:
    """Return the lights: sky and sun through the window, three lamps."""
    sky, (ceiling, table, floor) = day.daylight, day.lamps
    # Walls reflect the light of the sky and of the ceiling lamp.
    reflected = 0.625 * sky + 0.375 * (0.75 * ceiling + 0.125 * table + 0.125 * floor)
    y, z = np.meshgrid((1.3, 1.75, 2.3, 2.75), (1.15, 2.0))
    window_points = np.stack([np.full(y.size, 5.88), y.ravel(), z.ravel()], axis=1)
    sun_3 = np.array(day.sun_3)
    return Lighting(
        ambient_3=_scaled((0.74, 0.71, 0.68), reflected),
        lamps=(
            Lamp(window_points, _scaled((3.3, 3.5, 3.8), sky), facing_3=(-1.0, 0.0, 0.0)),
            Lamp(
                np.array([[3.3, 2.5, 2.45], [2.9, 2.7, 2.45]]), _scaled((1.9, 1.75, 1.5), ceiling)
            ),
            Lamp(np.array([[0.95, 2.2, 1.5]]), _scaled((0.55, 0.44, 0.28), table)),
            Lamp(np.array([[5.1, 4.62, 1.75]]), _scaled((0.42, 0.32, 0.2), floor)),
        ),
        sun=Sun(sun_3 / np.linalg.norm(sun_3), 5.86, PANES, _scaled((7.0, 6.1, 4.7), sky)),
    )


def _scaled(power_3: Colour, factor: float) -> Colour:
    r, g, b = power_3
    return r * factor, g * factor, b * factor


def floor_and_ceiling(room: Builder) -> None:
    """Add an oak floor, a plaster ceiling with four beams, and solid blocks around the room."""
    x, y, z = SIZE_M
    floor = planks(((176, 128, 84), (164, 116, 74), (190, 144, 98), (148, 104, 68)))
    room.rectangle((0, y, 0), (x, 0, 0), (0, -y, 0), floor)
    room.rectangle((0, 0, z), (x, 0, 0), (0, y, 0), plaster((234, 230, 220), 0.014, COARSE))
    for beam, wide in ((0.9, 0.16), (2.35, 0.19), (4.05, 0.15), (5.3, 0.17)):
        room.box((beam, 0, z - 0.14), (wide, y, 0.14), wood(WALNUT, 0.16), skip="top front back")
    for corner, size in (
        ((-0.2, -0.2, -0.2), (x + 0.4, y + 0.4, 0.2)),
        ((-0.2, -0.2, z), (x + 0.4, y + 0.4, 0.2)),
        ((-0.2, -0.2, 0), (0.2, y + 0.4, z)),
        ((x, -0.2, 0), (0.2, y + 0.4, z)),
        ((0, -0.2, 0), (x, 0.2, z)),
        ((0, y, 0), (x, 0.2, z)),
    ):
        half_3 = np.divide(size, 2.0)
        room.blocks.append(Block(corner + half_3, half_3))


def wall(place: Builder, length: float, material: Material, skirting: Colour) -> None:
    """Add a wall and its skirting board."""
    height = SIZE_M[2]
    place.rectangle((0, 0, height), (length, 0, 0), (0, 0, -height), material)
    place.box((0, -0.018, 0), (length, 0.018, 0.1), wood(skirting, 0.03), skip="back bottom")


def paintings(north: Builder, day: Day) -> None:
    """Add five pictures between bookcase and lamp."""
    hills = ((146, 164, 186), (104, 136, 136), (92, 124, 82), (58, 88, 54))
    mote = poster(CREAM, NAVY, RUST, ("MOTE", "finds itself", "museum of small things"))
    frame(north, 2.72, 1.35, 0.55, 0.75, mote, BLACK)
    seen = landscape(SKY, hills, (252, 240, 190))
    frame(day.at(north, "landscape", 0.0, 0.0), 3.5, 1.28, 0.95, 0.66, seen, BRASS)
    frame(north, 4.66, 1.42, 0.4, 0.5, bouquet(((70, 92, 98), (128, 132, 112)), VIVID, RUST), OAK)
    frame(north, 4.66, 2.03, 0.42, 0.3, abstract((226, 214, 190), VIVID, 16), WHITE)
    seen = city(DUSK, ((52, 54, 74), (94, 70, 78)))
    frame(day.at(north, "city", 0.0, 0.0), 5.35, 1.5, 0.42, 0.62, seen, BLACK)


def window(east: Builder, day: Day) -> None:
    """Add a window with two panes, a sill, curtains, and a radiator under it."""
    x0, x1 = 5.0 - PANES[1][2], 5.0 - PANES[0][0]  # along the wall, from the north
    z0, z1 = PANES[0][1], PANES[0][3]
    outer, outside = wood(WHITE, 0.03), view() if day.daylight else plain(BLACK)
    east.rectangle(
        (x0, -0.01, z1), (x1 - x0, 0, 0), (0, 0, z0 - z1), outside, glow=1.25 * day.daylight
    )
    for x, wide in ((x0 - 0.07, 0.07), (5.0 - PANES[1][0], 0.08), (x1, 0.07)):
        east.box((x, -0.06, z0 - 0.07), (wide, 0.06, z1 - z0 + 0.14), outer, skip="back")
    for z in (z0 - 0.07, z1):
        east.box((x0, -0.06, z), (x1 - x0, 0.055, 0.07), outer, skip="back")
    east.box((x0, -0.04, 1.78), (x1 - x0, 0.03, 0.035), outer, skip="back")
    east.box((x0 - 0.15, -0.2, z0 - 0.1), (x1 - x0 + 0.3, 0.2, 0.03), wood(OAK), skip="back")
    east.box((x0 - 0.5, -0.1, 2.37), (x1 - x0 + 1.0, 0.025, 0.025), plain(BRASS))
    cloths = ((196, 128, 76), (224, 198, 156), (150, 84, 60))
    for x, wide in ((x0 - 0.44, 0.36), (x1 + 0.06, 0.40)):
        for fold in range(4):
            corner = (x + fold * wide / 4, -0.13 + 0.025 * (fold % 2), 0.2)
            east.box(corner, (wide / 4, 0.05, 2.17), curtain((212, 166, 116), cloths), skip="back")
    for fin in range(13):
        corner = (x0 + 0.12 + fin * 0.105, -0.13, 0.17)
        east.box(corner, (0.075, 0.1, 0.56), plain(WHITE, 0.02), skip="back bottom")
    for side, x, colour in (
        ("left", x0 + 0.1, RUST),
        ("middle", x0 + 0.6, (66, 96, 122)),
        ("right", x1 - 0.2, (206, 180, 90)),
    ):
        place = day.at(east, f"{side} sill plant", x, -0.11, z0 - 0.07)
        plant(place, np.random.default_rng(int(1e3 * x)), 10, 0.22, colour)


def blind(east: Builder, length_m: float) -> None:
    """Add a blind that hangs in front of the window and the sill."""
    x0, x1 = 5.0 - PANES[1][2], 5.0 - PANES[0][0]
    top = PANES[0][3] + 0.12
    slats = curtain(CREAM, ((206, 192, 164), (238, 232, 216)))
    east.box((x0 - 0.1, -0.18, top - length_m), (x1 - x0 + 0.2, 0.015, length_m), slats)
    rail = (x0 - 0.1, -0.19, top - length_m - 0.03)
    east.box(rail, (x1 - x0 + 0.2, 0.035, 0.03), wood(TEAK))


def door(place: Builder) -> None:
    """Add a panelled door with its frame and handle, and a picture above it."""
    case = wood(WHITE, 0.03)
    place.box((0, -0.03, 0), (0.86, 0.03, 2.05), panelled((112, 136, 128), 3, 2, 0.06), skip="back")
    for x in (-0.09, 0.86):
        place.box((x, -0.05, 0), (0.09, 0.05, 2.14), case, skip="back bottom")
    place.box((-0.09, -0.05, 2.05), (1.04, 0.05, 0.09), case, skip="back")
    place.box((0.05, -0.09, 1.02), (0.14, 0.02, 0.025), plain(BRASS))
    place.box((0.06, -0.07, 0.96), (0.03, 0.04, 0.16), plain(BRASS), skip="back")
    frame(place, 0.2, 2.24, 0.5, 0.24, abstract((60, 66, 86), VIVID, 20), BRASS)


def coats(place: Builder) -> None:
    """Add a rail with coats and a bag, a print above it, a bench below it."""
    place.box((-0.02, -0.03, 1.62), (0.84, 0.03, 0.09), wood(TEAK), skip="back")
    for x, wide, tall, colour in (
        (0.02, 0.26, 0.95, (196, 156, 60)),
        (0.31, 0.22, 0.78, (64, 92, 112)),
        (0.58, 0.2, 0.5, (150, 64, 60)),
    ):
        inks = ((230, 220, 196),) if tall < 0.6 else ()
        place.box((x, -0.13, 1.64 - tall), (wide, 0.1, tall), cloth(colour, inks), skip="back")
    seat, front = cloth(SAGE, (CREAM, NAVY)), panelled(PINE, 1, 3, 0.03)
    place.box(
        (0, -0.3, 0), (0.84, 0.28, 0.32), wood(PINE), skip="back bottom", top=seat, front=front
    )
    sign = poster(NAVY, CREAM, (226, 176, 70), ("NORTH", "by light", "a map of one room"))
    frame(place, 0.1, 1.84, 0.62, 0.44, sign, BRASS)


def west_wall(west: Builder) -> None:
    """Add paintings, a clock, a notice board and small frames to the brick wall."""
    dawn = ((214, 172, 150), (248, 226, 186))
    frame(west, 3.5, 1.32, 1.1, 0.8, abstract((228, 218, 196), VIVID, 44), BLACK)
    hills = (SAGE, (84, 104, 96), (54, 66, 52))
    frame(west, 1.82, 1.22, 0.75, 0.55, landscape(dawn, hills, RUST), OAK)
    notices = pinned(cloth((190, 146, 96)), 9)
    west.box((0.86, -0.03, 1.15), (0.66, 0.03, 0.85), wood(PINE), skip="back", front=notices)
    west.box((2.78, -0.04, 1.72), (0.36, 0.04, 0.36), plain(BLACK), skip="back", front=clock())
    frame(west, 2.78, 1.2, 0.32, 0.4, bouquet((DUSK[0], (96, 72, 84)), VIVID, CREAM), BRASS)
    frame(west, 1.96, 1.98, 0.46, 0.3, city(SKY, ((150, 120, 96), (104, 96, 96))), WHITE)
    frame(west, 4.7, 1.3, 0.2, 0.28, poster((196, 84, 58), CREAM, CREAM, ("22", "may")), WHITE)


def rugs(room: Builder) -> None:
    """Add a rug under the low table, a runner in front of the kitchen, and a door mat."""
    for place, w, d, ground, edge, count in (
        (room.at(3.75, 2.75, degrees=-3), 2.5, 1.75, (150, 54, 48), (NAVY, CREAM, RUST), 3),
        (room.at(1.45, 0.98, degrees=1.5), 1.5, 0.55, SAGE, ((86, 62, 54), (222, 190, 130)), 4),
        (room.at(5.02, 0.42, degrees=-2), 0.8, 0.5, (150, 122, 82), (BLACK, (180, 150, 100)), 1),
    ):
        carpet = rug(ground, edge, (*MUTED, CREAM), count)
        place.box((-w / 2, -d / 2, 0), (w, d, 0.008), cloth(edge[0]), top=carpet, skip="bottom")


def ceiling_lights(room: Builder, ceiling: float, table: float) -> None:
    """Add a pendant lamp over the dining table and a paper lamp in the middle of the room."""
    room.round((0.95, 2.2, 1.9), 0.008, 0.8, plain(BLACK), facets=4)
    room.round((0.95, 2.2, 1.62), 0.2, 0.28, plain(RUST, 0.06), top=plain(RUST), glow=0.5 * table)
    room.round(
        (3.15, 2.6, 2.45), 0.24, 0.14, curtain(CREAM, ((236, 226, 200),)), glow=1.6 * ceiling
    )
    square = ((3.15 - 0.2, 2.6 - 0.2, 2.455), (0.4, 0, 0), (0, 0.4, 0))
    room.rectangle(*square, plain((250, 244, 226)), glow=1.8 * ceiling)


def lit_textures(day: Day = RECORDED) -> list[np.ndarray]:
    """Return the texture of each rectangle with its light, uint8 RGB; takes some seconds."""
    room, lights = build(day), lighting(day)
    light = compute_light(room.rectangles, room.blocks, lights)
    textures = []
    for index, (rectangle, (soft, sun)) in enumerate(zip(room.rectangles, light, strict=True)):
        rng = np.random.default_rng((SEED, index))
        width_m, height_m = np.linalg.norm([rectangle.right_3, rectangle.down_3], axis=1).tolist()
        albedo = rectangle.material(rng, (width_m, height_m)).astype(np.float32)
        soft = np.maximum(soft, np.float32(rectangle.glow))
        textures.append(expose(albedo, soft, sun, lights.sun_power_3))
    return textures
