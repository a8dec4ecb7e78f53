"""Students: their interface, their cost, their layers."""

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")

import torch  # noqa: E402
from make_student import NORMALIZATION, SMALL, as_if_trained, images, student  # noqa: E402
from make_wall import CAMERA  # noqa: E402
from test_dust3r import with_recipe_weights  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from distill_training.students import (  # noqa: E402
    CellGrid,
    Student,
    create_student,
    describe,
)
from distill_training.students.mobilenet_backbone import (  # noqa: E402
    feature_levels,
    mobilenet_features,
)
from distill_training.students.vit_encoder import Block, Positions  # noqa: E402
from mote_localization.errors import MoteError  # noqa: E402

pytestmark = pytest.mark.train
VARIANTS = ("v2", "v3-small", "v3-large")


# Interface


@pytest.mark.parametrize("family", SMALL)
@pytest.mark.parametrize("stride", [4, 8, 16])
def test_a_student_predicts_one_point_per_cell(family: str, stride: int):
    """Also for sides that are only multiples of the stride, as those of canonical cameras."""
    for size in ((64, 48), (64 + stride, 48 + 3 * stride)):
        points, sigma = student(family, stride, size)(images(2, size))
        assert points.shape == (2, size[1] // stride, size[0] // stride, 3)
        assert sigma.shape == points.shape[:3] and (sigma > 0).all()


@pytest.mark.parametrize("family", SMALL)
def test_an_untrained_student_predicts_points_near_the_mean_of_the_scene(family: str):
    points, sigma = student(family).train()(images(2))
    assert (points - torch.tensor(NORMALIZATION.mean)).abs().max() < 0.5 * NORMALIZATION.spread
    assert sigma.log().abs().max() < 0.5


@pytest.mark.parametrize("family", SMALL)
def test_the_seed_determines_the_weights(family: str):
    one, other = student(family).state_dict(), student(family).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    different = create_student(
        family, NORMALIZATION, CellGrid(8, 64, 48), **SMALL[family]
    ).state_dict()
    assert not all(torch.equal(one[name], different[name]) for name in one)


@pytest.mark.parametrize("family", SMALL)
def test_images_of_a_batch_are_independent(family: str):
    network, batch = as_if_trained(student(family)), images(2)
    alone, together = network(batch[:1])[0], network(batch)[0]
    torch.testing.assert_close(together[:1], alone, rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", SMALL)
def test_predictions_in_half_precision_are_about_the_same(family: str):
    network = as_if_trained(student(family))
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
        ("mobilenet", {"backbone_rate": -1.0}, "found backbone_rate = -1.0"),
        ("vit", {"heads": 5}, "found width = 192 and heads = 5"),
        ("vit", {"patch": 14}, "expected 8 or 16 or 32"),
    ],
)
def test_invalid_settings_are_rejected(family: str, settings: dict, message: str):
    with pytest.raises(MoteError, match=message):
        create_student(family, NORMALIZATION, **settings)


def test_invalid_strides_are_rejected():
    with pytest.raises(MoteError, match="found a stride of 6 px"):
        CellGrid(6)
    with pytest.raises(MoteError, match="found patch = 8 px, expected the stride, 16 px, or more"):
        student("vit", 16, patch=8)


# Cost


def test_multiply_adds_equal_a_count_by_hand():
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


class WithInput(nn.Module):
    """Passes zeros of a given shape, instead of the image, to a module."""

    def __init__(self, module: nn.Module, *shape: int) -> None:
        super().__init__()
        self.module, self.shape = module, shape

    def forward(self, image_bhw3: Tensor) -> Tensor:
        return self.module(torch.zeros(self.shape))


def test_multiply_adds_of_attention_and_of_depthwise_convolutions_are_counted():
    n, c = 10, 32
    block = WithInput(Block(c, heads=2, tokens=n), 1, n, c)
    assert describe(block, CAMERA).macs == 12 * n * c * c + 2 * n * n * c
    depthwise = WithInput(nn.Conv2d(16, 16, 5, stride=2, padding=2, groups=16), 1, 16, 8, 10)
    assert describe(depthwise, CAMERA).macs == 25 * 16 * 4 * 5


def test_describing_a_student_does_not_change_it():
    network = student("mobilenet").train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    figures = describe(network, CAMERA)
    assert figures.parameters == figures.trained == sum(p.numel() for p in network.parameters())
    assert network.training and "GMAC an image" in str(figures)
    after = network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_sizes_of_the_cnn_have_the_documented_parameters():
    sizes = [
        describe(create_student("cnn", NORMALIZATION, size=size), CAMERA).parameters / 1e6
        for size in ("s", "m", "l")
    ]
    assert sizes == pytest.approx([0.5, 1.4, 8], rel=0.05)
    narrow = create_student("cnn", NORMALIZATION, size="l", coarse=8)
    assert describe(narrow, CAMERA).parameters < 4e6


@pytest.mark.parametrize("family", ["cnn", "mobilenet"])
def test_maps_with_default_settings_are_smaller_than_4_megabytes(family: str):
    assert describe(create_student(family, NORMALIZATION), CAMERA).file_bytes < 3.9e6


def test_all_parameters_of_a_cnn_are_in_one_group():
    network = student("cnn")
    (group,) = network.parameter_groups()
    assert group.keys() == {"params", "rate"} and group["rate"] == 1
    assert all(a is b for a, b in zip(group["params"], network.parameters(), strict=True))


def test_norms_and_positions_of_a_vit_have_no_weight_decay():
    network = student("vit")
    groups = network.parameter_groups()
    assert sum(len(group["params"]) for group in groups) == len(list(network.parameters()))
    (undecayed,) = (group["params"] for group in groups if group.get("weight_decay") == 0)
    assert any(p is network.encoder.positions.values for p in undecayed)
    assert any(p is network.encoder.enc_norm.weight for p in undecayed)
    assert not any(p is network.encoder.enc_blocks[0].attn.qkv.weight for p in undecayed)


# MobileNet


@pytest.mark.parametrize("variant", VARIANTS)
def test_backbones_equal_those_of_torchvision(variant: str, shared_data: Path):
    """In names, shapes and order of the weights; outputs to 1e-4 of their largest value."""
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
            module.num_batches_tracked = torch.zeros(
                1
            )  # unused; the recipe for the weights needs an array
    network, image = with_recipe_weights(network, shared_data)
    x = torch.from_numpy(image(80, 96, 128))[None]
    compared = 0
    for i, layer in enumerate(network["features"]):
        x = layer(x)
        if f"features_{i}" in expected:
            stored = x[..., ::2, ::2] if x.shape[3] > 16 else x
            golden = torch.from_numpy(expected[f"features_{i}"])
            assert (stored - golden).abs().max() < 1e-4 * golden.abs().max()
            compared += 1
    assert compared == len(expected.files)


@pytest.mark.parametrize("variant", VARIANTS)
def test_feature_levels_name_stride_and_channels(variant: str):
    x, levels = torch.zeros(1, 3, 64, 96), feature_levels(variant)
    assert list(levels) == [2, 4, 8, 16, 32]
    maps = [x := layer(x) for layer in mobilenet_features(variant).eval()]
    for stride, (index, channels) in levels.items():
        assert maps[index].shape == (1, channels, 64 // stride, 96 // stride)
        assert maps[index + 1].shape[2] < 64 // stride or stride == 32


def test_a_mobilenet_normalizes_images_as_networks_trained_on_imagenet_do():
    image = torch.tensor([[[[0, 128, 255]]]], dtype=torch.uint8)
    normalized = student("mobilenet").input(image)[0, :, 0, 0]
    expected = (np.array([0, 128, 255]) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(normalized, expected, rtol=1e-5)


# ViT


def test_a_patch_changes_cells_far_from_it():
    """Through attention: without it, only cells nearby change."""
    size = (320, 48)
    network = vit_with_large_weights(size)
    one, other = images(1, size), images(1, size)
    other[:, :, :16] = 255 - other[:, :, :16]
    changed = (network(one)[0] - network(other)[0]).abs().amax(dim=(0, 1, 3))
    assert (changed > 1e-4).all()
    for block in (*network.encoder.enc_blocks, *network.dec_blocks):
        nn.init.zeros_(block.attn.proj.weight)
    changed = (network(one)[0] - network(other)[0]).abs().amax(dim=(0, 1, 3))
    assert changed[:2].min() > 1e-4 and changed[-10:].max() == 0


def vit_with_large_weights(size: tuple[int, int]) -> Student:
    network = student("vit", size=size)
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
    nn.init.normal_(network.head.out.weight)
    return network


def test_a_vit_rejects_images_of_another_size():
    with pytest.raises(ValueError, match=r"expected \(48, 64\)"):
        student("vit")(images(1, (64, 64)))


def test_positions_of_another_grid_are_interpolated():
    """A linear ramp stays about the same ramp; values of the same grid are unchanged."""
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


def test_a_block_equals_the_transformer_layer_of_torch():
    """The factors of LayerScale are folded into the last matrices of torch's layer."""
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
