"""The students: their sizes, what they compute, what they start from, how they are exported."""

import argparse
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

pytest.importorskip("torch", reason="torch is not installed")

import torch  # noqa: E402
from test_dust3r import Hostile, small_network, with_recipe_weights  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from distill_training.export import export_map  # noqa: E402
from distill_training.students import (  # noqa: E402
    CellGrid,
    SceneFrame,
    Student,
    create_student,
    describe,
)
from distill_training.students.mobilenet_trunk import (  # noqa: E402
    feature_levels,
    mobilenet_features,
)
from distill_training.students.vit_encoder import Block, Positions  # noqa: E402
from mote_localization.camera import Camera  # noqa: E402
from mote_localization.errors import CheckpointError, MoteError  # noqa: E402
from mote_localization.map_file import MapInfo  # noqa: E402

pytestmark = pytest.mark.train
FRAME = SceneFrame((1.0, 2.0, 3.0), 1.5)
CAMERA = Camera(64, 48, 50.0, 50.0, 31.5, 23.5)
SMALL: dict[str, dict] = {
    "cnn": {"stem": 8, "fine": 16, "coarse": 16, "coarse_blocks": 1, "fine_blocks": 1},
    "mobilenet": {"width": 16, "blocks": 1},
    "vit": {
        "width": 32,
        "heads": 2,
        "encoder_blocks": 2,
        "decoder_blocks": 1,
        "stem": 8,
        "fine": 16,
        "fine_blocks": 1,
    },
}
VARIANTS = ("v2", "v3-small", "v3-large")


def student(family: str, stride: int = 8, size: tuple[int, int] = (64, 48), **settings) -> Student:
    """A small student for images of a width and height; seed 0."""
    torch.manual_seed(0)
    return create_student(
        family, FRAME, CellGrid(stride, *size), **{**SMALL[family], **settings}
    ).eval()


def images(count: int = 1, size: tuple[int, int] = (64, 48), seed: int = 0) -> Tensor:
    shape = (count, size[1], size[0], 3)
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 255, shape, np.uint8))


def lively(network: Student) -> Student:
    """The student as if trained: batch statistics of images, points far from the mean."""
    network.train()(images(2, seed=1))
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.01)
    nn.init.normal_(network.head.out.weight, std=0.1)
    return network.eval()


def two_steps(network: Student) -> None:
    """Train on two images, on the CPU, in full precision; what starts at zero hides at first."""
    optimizer = torch.optim.AdamW(network.parameter_groups(), 1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        points, sigma = network.train()(images(2))
        (points.square().mean() + sigma.mean()).backward()
        optimizer.step()


# One interface


@pytest.mark.parametrize("family", SMALL)
@pytest.mark.parametrize("stride", [4, 8, 16])
def test_a_student_gives_one_point_a_cell(family: str, stride: int):
    """Sides that are multiples of the stride alone, as canonical cameras have, too."""
    for size in ((64, 48), (64 + stride, 48 + 3 * stride)):
        points, sigma = student(family, stride, size)(images(2, size))
        assert points.shape == (2, size[1] // stride, size[0] // stride, 3)
        assert sigma.shape == points.shape[:3] and (sigma > 0).all()


@pytest.mark.parametrize("family", SMALL)
def test_an_untrained_student_is_near_the_mean_of_the_scene(family: str):
    points, sigma = student(family).train()(images(2))
    assert (points - torch.tensor(FRAME.mean)).abs().max() < 0.5 * FRAME.spread
    assert sigma.log().abs().max() < 0.5


@pytest.mark.parametrize("family", SMALL)
def test_the_seed_decides_the_weights(family: str):
    one, other = student(family).state_dict(), student(family).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    different = create_student(family, FRAME, CellGrid(8, 64, 48), **SMALL[family]).state_dict()
    assert not all(torch.equal(one[name], different[name]) for name in one)


@pytest.mark.parametrize("family", SMALL)
def test_images_of_a_batch_do_not_mix(family: str):
    network, batch = lively(student(family)), images(2)
    alone, together = network(batch[:1])[0], network(batch)[0]
    torch.testing.assert_close(together[:1], alone, rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", SMALL)
def test_in_half_precision_a_student_predicts_about_the_same(family: str):
    network = lively(student(family))
    with torch.autocast("cpu", torch.bfloat16):
        points, sigma = network(images())
    assert points.dtype == sigma.dtype == torch.float32
    expected = network(images())[0]
    assert (points - expected).abs().mean() < 0.05 * expected.std()


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        ("vgg", {}, "expected one of cnn, mobilenet, vit"),
        ("cnn", {"depth": 3}, "found setting 'depth', expected size, stem, fine"),
        ("cnn", {"size": "xl"}, "found size = 'xl', expected s or m or l"),
        ("cnn", {"fine": 0}, "found fine = 0, expected"),
        ("cnn", {"fine": "64"}, "found fine = '64', expected"),
        ("mobilenet", {"variant": "v4"}, "expected v2 or v3-small or v3-large"),
        ("mobilenet", {"width": True}, "found width = True, expected a whole number"),
        ("mobilenet", {"freeze": "all"}, "without a pretrained file"),
        ("mobilenet", {"freeze": "last-2", "pretrained": "x.pth"}, "expected none, all or all-but"),
        ("mobilenet", {"trunk_rate": -1.0}, "found trunk_rate = -1.0"),
        ("vit", {"heads": 5}, "found width = 192 and heads = 5"),
        ("vit", {"patch": 14}, "expected 8 or 16 or 32"),
    ],
)
def test_settings_that_make_no_student_are_refused(family: str, settings: dict, message: str):
    with pytest.raises(MoteError, match=message):
        create_student(family, FRAME, **settings)


def test_strides_that_no_student_has_are_refused():
    with pytest.raises(MoteError, match="found a stride of 6 px"):
        CellGrid(6)
    with pytest.raises(MoteError, match="found patch = 8 px, expected the stride, 16 px, or more"):
        student("vit", 16, patch=8)


# Figures


def test_multiply_adds_are_those_counted_by_hand():
    network = student("cnn")
    cells, context = 8 * 6, 4 * 3
    expected = (
        27 * 8 * 32 * 24
        + (9 * 8 * 16 + 2 * 9 * 16 * 16) * 16 * 12
        + 3 * 9 * 16 * 16 * cells
        + (3 * 9 + 1) * 16 * 16 * context
        + (2 * 9 * 16 * 16 + 2 * 16 * 16 + 4 * 16) * cells
    )
    assert describe(network, CAMERA).macs == expected


class Alone(nn.Module):
    """A module that is given, instead of the image, an input of its own."""

    def __init__(self, module: nn.Module, *shape: int) -> None:
        super().__init__()
        self.module, self.shape = module, shape

    def forward(self, image_bhw3: Tensor) -> Tensor:
        return self.module(torch.zeros(self.shape))


def test_multiply_adds_of_attention_and_of_depthwise_convolutions_are_counted():
    n, c = 10, 32
    block = Alone(Block(c, heads=2, tokens=n), 1, n, c)
    assert describe(block, CAMERA).macs == 12 * n * c * c + 2 * n * n * c
    depthwise = Alone(nn.Conv2d(16, 16, 5, stride=2, padding=2, groups=16), 1, 16, 8, 10)
    assert describe(depthwise, CAMERA).macs == 25 * 16 * 4 * 5


def test_describing_a_student_leaves_it_as_it_is():
    network = student("mobilenet").train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    figures = describe(network, CAMERA)
    assert figures.parameters == figures.trained == sum(p.numel() for p in network.parameters())
    assert network.training and "GMAC an image" in str(figures)
    after = network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_sizes_of_the_cnn_are_those_promised():
    sizes = [
        describe(create_student("cnn", FRAME, size=size), CAMERA).parameters / 1e6
        for size in ("s", "m", "l")
    ]
    assert sizes == pytest.approx([0.5, 1.4, 8], rel=0.05)
    narrow = create_student("cnn", FRAME, size="l", coarse=8)
    assert describe(narrow, CAMERA).parameters < 4e6


@pytest.mark.parametrize("family", ["cnn", "mobilenet"])
def test_maps_of_the_defaults_stay_under_4_megabytes(family: str):
    assert describe(create_student(family, FRAME), CAMERA).file_bytes < 3.9e6


# Export


def info(stride: int, family: str) -> MapInfo:
    return MapInfo("s", CAMERA, stride, (0, 0, 0), (1, 1, 1), "rgbd", "", family)


CASES: list[tuple[str, int, dict]] = [
    *((family, stride, {}) for family in SMALL for stride in (4, 8, 16)),
    ("mobilenet", 8, {"variant": "v2", "deepest": 32}),
    ("mobilenet", 8, {"variant": "v3-large"}),
    ("vit", 8, {"patch": 8}),
    ("vit", 8, {"patch": 32}),
]


def exported(network: Student, family: str, stride: int, path: Path) -> None:
    """Check that ONNX Runtime predicts the same, from a graph of fixed sizes alone."""
    lively(network)
    described = info(stride, family)
    assert export_map(network, described, images(2).numpy(), path) < 2e-3
    model = onnx.load(path)
    nodes = model.graph.node
    assert [node.op_type for node in nodes if "image" in node.input] == ["Cast"]
    asking = {"Shape", "Size", "If", "Loop", "Scan", "NonZero", "Range", "ConstantOfShape"}
    assert not asking & {node.op_type for node in nodes}
    assert all(o.domain == "" and o.version == 17 for o in model.opset_import)
    weights = describe(network, CAMERA).file_bytes
    assert weights < model.ByteSize() < weights + 150_000


@pytest.mark.parametrize(("family", "stride", "settings"), CASES)
def test_an_exported_student_predicts_the_same(
    family: str, stride: int, settings: dict, tmp_path: Path
):
    exported(student(family, stride, **settings), family, stride, tmp_path / "m.onnx")


@pytest.mark.parametrize(("spread", "stored"), [(1.0, "FLOAT16"), (300.0, "FLOAT")])
def test_weights_are_stored_in_half_precision_where_points_allow_it(
    spread: float, stored: str, tmp_path: Path
):
    """In a place of hundreds of metres, half precision would move points by centimetres."""
    frame = SceneFrame((0.0, 0.0, 0.0), spread)
    network = lively(create_student("cnn", frame, CellGrid(8, 64, 48), **SMALL["cnn"]))
    assert export_map(network, info(8, "cnn"), images(2).numpy(), tmp_path / "m.onnx") < 2e-3
    kinds = {
        t.data_type for t in onnx.load(tmp_path / "m.onnx").graph.initializer if len(t.dims) == 4
    }
    assert (onnx.TensorProto.DataType.Value(stored) in kinds) and (
        stored == "FLOAT16" or onnx.TensorProto.FLOAT16 not in kinds
    )


def test_small_layers_stay_in_single_precision_where_their_rounding_counts(tmp_path: Path):
    """Two channels that are alike cancel each other in the next layer, but not when rounded."""
    frame = SceneFrame((0.0, 0.0, 0.0), 1.0)
    network = lively(
        create_student("cnn", frame, CellGrid(8, 64, 48), **SMALL["cnn"] | {"fine": 24})
    )
    first, second = network.stem[0], network.stem[1][0]
    with torch.no_grad():
        for value in (first[0].weight, *first[1].state_dict(keep_vars=True).values()):
            if value.ndim:
                value[1] = value[0]
        second.weight[:, 0] += 300
        second.weight[:, 1] -= 300
    assert export_map(network, info(8, "cnn"), images(2).numpy(), tmp_path / "m.onnx") < 2e-3
    kinds = {tuple(t.dims): t.data_type for t in onnx.load(tmp_path / "m.onnx").graph.initializer}
    assert kinds[tuple(second.weight.shape)] == onnx.TensorProto.FLOAT
    assert onnx.TensorProto.FLOAT16 in kinds.values()


# MobileNet


@pytest.mark.parametrize("variant", VARIANTS)
def test_trunks_are_torchvisions(variant: str, shared_data: Path):
    """Every name, every shape, in order; the outputs to 1e-4 of their largest value."""
    name = f"mobilenet_{variant.replace('-', '_')}"
    network = nn.ModuleDict({"features": mobilenet_features(variant)})
    published = json.loads((shared_data / f"golden/{name}.keys.json").read_text())
    found = {key: list(value.shape) for key, value in network.state_dict().items()}
    assert list(found.items()) == [
        (key, shape) for key, shape in published.items() if not key.startswith("classifier")
    ]
    expected = np.load(shared_data / f"golden/{name}.npz")
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.num_batches_tracked = torch.zeros(1)  # unused; the recipe makes arrays
    network, image = with_recipe_weights(network, shared_data)
    x = torch.from_numpy(image(80, 96, 128))[None]
    compared = 0
    for i, layer in enumerate(network["features"]):
        x = layer(x)
        if f"features_{i}" in expected:
            seen = x[..., ::2, ::2] if x.shape[3] > 16 else x
            golden = torch.from_numpy(expected[f"features_{i}"])
            assert (seen - golden).abs().max() < 1e-4 * golden.abs().max()
            compared += 1
    assert compared == len(expected.files)


@pytest.mark.parametrize("variant", VARIANTS)
def test_levels_of_a_trunk_have_their_stride_and_channels(variant: str):
    x, levels = torch.zeros(1, 3, 64, 96), feature_levels(variant)
    assert list(levels) == [2, 4, 8, 16, 32]
    maps = [x := layer(x) for layer in mobilenet_features(variant).eval()]
    for stride, (index, channels) in levels.items():
        assert maps[index].shape == (1, channels, 64 // stride, 96 // stride)
        assert maps[index + 1].shape[2] < 64 // stride or stride == 32


def torchvision_file(path: Path, variant: str = "v3-small", **changes: Tensor | None) -> Path:
    """Write a file as torchvision's; a change of None leaves the tensor out."""
    torch.manual_seed(5)
    network = nn.ModuleDict({"features": mobilenet_features(variant)})
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    state = {**network.state_dict(), "classifier.0.weight": torch.zeros(1000, 8), **changes}
    torch.save({name: value for name, value in state.items() if value is not None}, path)
    return path


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_mobilenet_starts_from_torchvisions_file(variant: str, tmp_path: Path):
    path = torchvision_file(tmp_path / "m.pth", variant)
    network = student("mobilenet", variant=variant, pretrained=path)
    file = torch.load(path)
    for name, value in network.features.state_dict().items():
        assert torch.equal(value, file[f"features.{name}"]), name


def test_older_files_of_torchvision_are_read(tmp_path: Path):
    """The first ones are no archives, and do not count batches."""
    state = torch.load(torchvision_file(tmp_path / "new.pth"))
    old = {name: value for name, value in state.items() if not name.endswith("_tracked")}
    torch.save(old, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    network = student("mobilenet", pretrained=str(tmp_path / "old.pth"))
    assert torch.equal(network.features[0][0].weight, state["features.0.0.weight"])


def test_a_mobilenet_sees_images_as_imagenets_networks_do():
    image = torch.tensor([[[[0, 128, 255]]]], dtype=torch.uint8)
    seen = student("mobilenet").input(image)[0, :, 0, 0]
    expected = (np.array([0, 128, 255]) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(seen, expected, rtol=1e-5)


# Freezing


def frozen_ones(network: Student) -> set[str]:
    return {name for name, p in network.named_parameters() if not p.requires_grad}


def test_a_frozen_trunk_stays_as_it_is(tmp_path: Path):
    """Weights and batch statistics, through training; the rest moves."""
    path = torchvision_file(tmp_path / "m.pth")
    network = student("mobilenet", pretrained=path, freeze="all")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    two_steps(network)
    for name, value in network.state_dict().items():
        moves = not name.startswith("features.") and not name.startswith("head.mean")
        if moves and name != "head.spread":
            assert not torch.equal(value, before[name]), name
        else:
            assert torch.equal(value, before[name]), name


def test_the_last_blocks_of_a_trunk_can_be_trained(tmp_path: Path):
    path = torchvision_file(tmp_path / "m.pth")
    network = student("mobilenet", pretrained=path, freeze="all-but-last-2").train()
    count = len(network.features)
    for i, layer in enumerate(network.features):
        trained = i >= count - 2
        assert all(p.requires_grad == trained for p in layer.parameters())
        assert all(m.training == trained for m in layer.modules())
    assert network.join.training and not frozen_ones(student("mobilenet", pretrained=path))
    figures = describe(network, CAMERA)
    frozen = sum(p.numel() for p in network.parameters() if not p.requires_grad)
    assert figures.trained == figures.parameters - frozen and frozen
    with pytest.raises(MoteError, match=f"at most the {count} blocks"):
        student("mobilenet", pretrained=path, freeze="all-but-last-99")


def test_a_pretrained_trunk_is_trained_slowly(tmp_path: Path):
    path = torchvision_file(tmp_path / "m.pth")
    network = student("mobilenet", pretrained=path, trunk_rate=0.05)
    trunk, rest = sorted(network.parameter_groups(), key=lambda group: group["rate"])
    assert (trunk["rate"], rest["rate"]) == (0.05, 1.0)
    assert set(trunk["params"]) == set(network.features.parameters())
    assert len(trunk["params"]) + len(rest["params"]) == len(list(network.parameters()))


def test_a_cnn_is_trained_alike_everywhere():
    network = student("cnn")
    (group,) = network.parameter_groups()
    assert group.keys() == {"params", "rate"} and group["rate"] == 1
    assert all(a is b for a, b in zip(group["params"], network.parameters(), strict=True))


def test_nothing_pulls_norms_and_positions_of_a_vit_to_zero():
    network = student("vit")
    groups = network.parameter_groups()
    assert sum(len(group["params"]) for group in groups) == len(list(network.parameters()))
    (undecayed,) = (group["params"] for group in groups if group.get("weight_decay") == 0)
    assert any(p is network.encoder.positions.values for p in undecayed)
    assert any(p is network.encoder.enc_norm.weight for p in undecayed)
    assert not any(p is network.encoder.enc_blocks[0].attn.qkv.weight for p in undecayed)


# ViT


def test_a_patch_is_seen_by_cells_far_from_it():
    """Through attention: with it switched off only cells nearby see the patch."""
    size = (320, 48)
    network = lively_vit(size)
    one, other = images(1, size), images(1, size)
    other[:, :, :16] = 255 - other[:, :, :16]
    changed = (network(one)[0] - network(other)[0]).abs().amax(dim=(0, 1, 3))
    assert (changed > 1e-4).all()
    for block in (*network.encoder.enc_blocks, *network.dec_blocks):
        nn.init.zeros_(block.attn.proj.weight)
    changed = (network(one)[0] - network(other)[0]).abs().amax(dim=(0, 1, 3))
    assert changed[:2].min() > 1e-4 and changed[-10:].max() == 0


def lively_vit(size: tuple[int, int]) -> Student:
    network = student("vit", size=size)
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
    nn.init.normal_(network.head.out.weight)
    return network


def test_a_vit_refuses_images_of_another_size():
    with pytest.raises(ValueError, match=r"expected \(48, 64\)"):
        student("vit")(images(1, (64, 64)))


def test_positions_of_another_grid_are_interpolated():
    """A slope stays about the slope; the same grid is taken as it is."""
    coarse, fine = Positions(2, (6, 8)), Positions(2, (12, 16))
    rows = torch.arange(6.0)[:, None].expand(6, 8)
    columns = torch.arange(8.0).expand(6, 8)
    coarse.load_state_dict({"values": torch.stack([rows, columns])[None]})
    fine.load_state_dict(coarse.state_dict())
    inner = fine.values[0, :, 4:-4, 4:-4]
    expected_rows = (torch.arange(12.0) + 0.5) / 2 - 0.5
    torch.testing.assert_close(inner[0], expected_rows[4:-4, None].expand(4, 8), rtol=0, atol=0.05)
    again = Positions(2, (6, 8))
    again.load_state_dict(coarse.state_dict())
    assert torch.equal(again.values, coarse.values)
    with pytest.raises(RuntimeError, match="size mismatch"):
        Positions(3, (12, 16)).load_state_dict(coarse.state_dict())


def test_a_block_is_torchs_transformer_layer():
    """With LayerScale, its factors folded into the layer's last matrices."""
    torch.manual_seed(0)
    c, n = 32, 10
    block = Block(c, heads=2, tokens=n, scaled=True)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.2)
    layer = nn.TransformerEncoderLayer(
        c, 2, 4 * c, 0, "gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
    )
    attn, mlp, one, two = block.attn, block.mlp, block.ls1.gamma, block.ls2.gamma
    layer.load_state_dict(
        {
            "self_attn.in_proj_weight": attn.qkv.weight,
            "self_attn.in_proj_bias": attn.qkv.bias,
            "self_attn.out_proj.weight": one[:, None] * attn.proj.weight,
            "self_attn.out_proj.bias": one * attn.proj.bias,
            "linear1.weight": mlp.fc1.weight,
            "linear1.bias": mlp.fc1.bias,
            "linear2.weight": two[:, None] * mlp.fc2.weight,
            "linear2.bias": two * mlp.fc2.bias,
            "norm1.weight": block.norm1.weight,
            "norm1.bias": block.norm1.bias,
            "norm2.weight": block.norm2.weight,
            "norm2.bias": block.norm2.bias,
        }
    )
    x = torch.randn(2, n, c)
    torch.testing.assert_close(block(x), layer(x), rtol=1e-4, atol=1e-5)


# Published encoders


def dust3r_file(path: Path, depth: int = 3) -> tuple[Path, nn.Module]:
    """Write a DUSt3R checkpoint of a tiny network; return the network too."""
    network = small_network(seed=2, enc_embed_dim=64, enc_num_heads=1, enc_depth=depth)
    torch.save({"args": argparse.Namespace(model="…"), "model": network.state_dict()}, path)
    return path, network


def dino_file(path: Path, registers: int = 0, side: int = 5, **changes) -> dict[str, Tensor]:
    """Write a tiny file with the names of DINOv2; return what it holds."""
    torch.manual_seed(3)
    c = 64
    state = {
        "cls_token": torch.randn(1, 1, c),
        "pos_embed": torch.randn(1, side * side + 1, c),
        "mask_token": torch.zeros(1, c),
        "patch_embed.proj.weight": 0.02 * torch.randn(c, 3, 14, 14),
        "patch_embed.proj.bias": torch.zeros(c),
        "norm.weight": torch.rand(c),
        "norm.bias": torch.rand(c),
    }
    if registers:
        state["register_tokens"] = torch.randn(1, registers, c)
    for i in range(3):
        block = Block(c, heads=1, tokens=1, scaled=True)
        nn.init.uniform_(block.ls1.gamma)
        state |= {f"blocks.{i}.{name}": value for name, value in block.state_dict().items()}
    state |= changes
    torch.save(state, path)
    return state


def test_a_vit_starts_from_dust3rs_encoder(tmp_path: Path):
    """Its tokens are those of DUSt3R's first blocks, but for RoPE and learned positions."""
    path, dust3r = dust3r_file(tmp_path / "d.pth")
    network = student("vit", pretrained=path)
    nn.init.zeros_(network.encoder.positions.values)
    image = images()
    tokens = dust3r.patch_embed(image.permute(0, 3, 1, 2) / 127.5 - 1)
    for block in dust3r.enc_blocks[:2]:
        tokens = block(tokens, lambda x: x)
    found = network.encoder(network.input(image))
    torch.testing.assert_close(found, dust3r.enc_norm(tokens), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("registers", [0, 4])
def test_a_vit_starts_from_dinov2(registers: int, tmp_path: Path):
    """Patches of 14 px show 16 px of the image, the class token and registers go along."""
    file = dino_file(tmp_path / "d.pth", registers)
    network = student("vit", pretrained=tmp_path / "d.pth")
    encoder = network.encoder
    for name, value in encoder.enc_blocks.state_dict().items():
        assert torch.equal(value, file[f"blocks.{name}"]), name
    assert torch.equal(encoder.enc_norm.weight, file["norm.weight"])
    first = encoder.prefix.values
    assert first.shape == (1, 1 + registers, 64)
    assert torch.equal(first[:, :1], file["cls_token"] + file["pos_embed"][:, :1])
    assert encoder.positions.values.shape == (1, 64, 3, 4)
    scaled = nn.functional.interpolate(network.input(images()), size=(42, 56), mode="bilinear")
    tokens = nn.functional.conv2d(
        scaled, file["patch_embed.proj.weight"], file["patch_embed.proj.bias"], stride=14
    )
    torch.testing.assert_close(encoder.patch_embed(network.input(images())), tokens)
    points, _ = network(images())
    assert points.shape == (1, 6, 8, 3)


def test_positions_of_the_same_grid_are_taken_as_they_are(tmp_path: Path):
    file = dino_file(tmp_path / "d.pth", side=4)
    network = student("vit", size=(64, 64), pretrained=tmp_path / "d.pth")
    rows = network.encoder.positions.values.flatten(2).transpose(1, 2)
    assert torch.equal(rows, file["pos_embed"][:, 1:])


@pytest.mark.parametrize("kind", ["dust3r", "dino"])
def test_a_student_on_a_published_encoder_is_exported(kind: str, tmp_path: Path):
    """Also where patches reach out of the image."""
    path = tmp_path / "d.pth"
    dust3r_file(path) if kind == "dust3r" else dino_file(path, registers=2)
    for patch in (16, 32):
        network = student("vit", pretrained=path, patch=patch)
        assert ("non-commercial" in network.licence) == (kind == "dust3r")
        exported(network, "vit", 8, tmp_path / "m.onnx")


def test_a_published_encoder_sees_images_of_broken_patches(tmp_path: Path):
    path, _ = dust3r_file(tmp_path / "d.pth")
    points, _ = student("vit", size=(72, 56), pretrained=path)(images(1, (72, 56)))
    assert points.shape == (1, 7, 9, 3)


def test_a_frozen_encoder_stays_as_it_is(tmp_path: Path):
    """DUSt3R's positions are not from the file, so they are trained all the same."""
    path, _ = dust3r_file(tmp_path / "d.pth")
    network = student("vit", pretrained=path, freeze="all")
    before = {name: value.clone() for name, value in network.encoder.state_dict().items()}
    two_steps(network)
    moved = {
        name
        for name, value in network.encoder.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert moved == {"positions.values"}
    last = student("vit", pretrained=path, freeze="all-but-last-1")
    trained = {n for n, p in last.encoder.named_parameters() if p.requires_grad}
    assert trained == {
        name for name in before if name.startswith(("positions.", "enc_norm.", "enc_blocks.1."))
    }
    dino_file(tmp_path / "dino.pth")
    dino = student("vit", pretrained=tmp_path / "dino.pth", freeze="all")
    assert not any(p.requires_grad for p in dino.encoder.parameters())


# Files that are of no use

WIDE = {f"features.{i}.0.weight": torch.zeros(1) for i in range(13)}
BAD: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "missing": ("mobilenet", lambda path: None, "cannot be read"),
    "text": ("mobilenet", lambda path: path.write_bytes(b"<html>"), "is damaged or no file"),
    "torn": (
        "mobilenet",
        lambda path: path.write_bytes(torchvision_file(path).read_bytes()[:5000]),
        "is damaged or no file",
    ),
    "pickle": (
        "mobilenet",
        lambda path: path.write_bytes(pickle.dumps({"a": Path("x")})),
        "is damaged or no file",
    ),
    "list": ("mobilenet", lambda path: torch.save([1, 2], path), "other than named tensors"),
    "numbers": ("mobilenet", lambda path: torch.save({"a": 1}, path), "other than named tensors"),
    "variant": (
        "mobilenet",
        lambda path: torchvision_file(path, "v3-large"),
        "are missing .*, expected torchvision's mobilenet_v3_small",
    ),
    "foreign": ("mobilenet", lambda path: torch.save(WIDE, path), "weights are missing"),
    "shape": (
        "mobilenet",
        lambda path: torchvision_file(path, **{"features.0.0.weight": torch.zeros(8, 3, 3, 3)}),
        r"found 0.0.weight of shape \(8, 3, 3, 3\), not \(16, 3, 3, 3\)",
    ),
    "no encoder": ("vit", torchvision_file, "holds no encoder of either kind"),
    "few blocks": ("vit", lambda path: dust3r_file(path, 1), "1 encoder blocks, expected 2"),
    "huge": (
        "vit",
        lambda path: dino_file(
            path, **{"patch_embed.proj.weight": torch.zeros(()).expand(1 << 30, 3, 14, 14)}
        ),
        "tokens of 1073741824 channels",
    ),
    "no positions": (
        "vit",
        lambda path: dino_file(path, pos_embed=torch.zeros(1, 23, 64)),
        "no usable positions",
    ),
    "other mlp": (
        "vit",
        lambda path: dino_file(path, **{"blocks.1.mlp.fc1.weight": torch.zeros(3, 64)}),
        "expected an encoder of DUSt3R or DINOv2",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_files_that_are_of_no_use_are_refused(name: str, tmp_path: Path):
    family, write, message = BAD[name]
    path = tmp_path / "weights.pth"
    write(path)
    with pytest.raises(CheckpointError, match=message) as caught:
        student(family, pretrained=path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and "\n" not in text and len(text) < 400


@pytest.mark.parametrize("family", ["mobilenet", "vit"])
def test_a_file_runs_no_code(family: str, tmp_path: Path):
    torch.save({"model": Hostile(tmp_path / "made")}, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match="is damaged or no file"):
        student(family, pretrained=tmp_path / "weights.pth")
    assert not os.path.exists(tmp_path / "made")
