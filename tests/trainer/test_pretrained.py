"""Students with a pretrained backbone: reading published files, freezing, learning rates."""

import argparse
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed")

import torch  # noqa: E402
from make_student import images, student  # noqa: E402
from make_wall import CAMERA  # noqa: E402
from test_dust3r import Hostile, small_network  # noqa: E402
from test_export import check_export  # noqa: E402
from test_students import VARIANTS  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from distill_training.students import Student, describe  # noqa: E402
from distill_training.students.mobilenet_backbone import mobilenet_features  # noqa: E402
from distill_training.students.vit_encoder import Block  # noqa: E402
from mote_localization.errors import CheckpointError, MoteError  # noqa: E402

pytestmark = pytest.mark.train


def torchvision_file(path: Path, variant: str = "v3-small", **changes: Tensor | None) -> Path:
    """Write a file like torchvision's; a change to None omits the tensor."""
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
def test_a_mobilenet_has_the_weights_of_a_torchvision_file(variant: str, tmp_path: Path):
    path = torchvision_file(tmp_path / "m.pth", variant)
    network = student("mobilenet", variant=variant, pretrained=path)
    file = torch.load(path)
    for name, value in network.features.state_dict().items():
        assert torch.equal(value, file[f"features.{name}"]), name


def test_files_of_older_torchvision_versions_are_read(tmp_path: Path):
    """They are not zip archives and contain no number of batches."""
    state = torch.load(torchvision_file(tmp_path / "new.pth"))
    old = {name: value for name, value in state.items() if not name.endswith("_tracked")}
    torch.save(old, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    network = student("mobilenet", pretrained=str(tmp_path / "old.pth"))
    assert torch.equal(network.features[0][0].weight, state["features.0.0.weight"])


def dust3r_file(path: Path, depth: int = 3) -> tuple[Path, nn.Module]:
    """Write a DUSt3R checkpoint of a tiny network; return path and network."""
    network = small_network(seed=2, enc_embed_dim=64, enc_num_heads=1, enc_depth=depth)
    torch.save({"args": argparse.Namespace(model="…"), "model": network.state_dict()}, path)
    return path, network


def dino_file(path: Path, registers: int = 0, side: int = 5, **changes) -> dict[str, Tensor]:
    """Write a tiny file with the names of DINOv2; return its tensors."""
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


def test_a_vit_has_the_weights_of_dust3rs_encoder(tmp_path: Path):
    """Its tokens equal those of DUSt3R's first blocks without position embedding."""
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
def test_a_vit_has_the_weights_of_dinov2(registers: int, tmp_path: Path):
    """A patch of 14 px shows 16 px of the image; class token and registers are kept."""
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


def test_positions_of_the_same_grid_are_unchanged(tmp_path: Path):
    file = dino_file(tmp_path / "d.pth", side=4)
    network = student("vit", size=(64, 64), pretrained=tmp_path / "d.pth")
    rows = network.encoder.positions.values.flatten(2).transpose(1, 2)
    assert torch.equal(rows, file["pos_embed"][:, 1:])


def test_a_published_encoder_takes_images_with_incomplete_patches(tmp_path: Path):
    path, _ = dust3r_file(tmp_path / "d.pth")
    points, _ = student("vit", size=(72, 56), pretrained=path)(images(1, (72, 56)))
    assert points.shape == (1, 7, 9, 3)


@pytest.mark.parametrize("kind", ["dust3r", "dino"])
def test_a_student_on_a_published_encoder_is_exported(kind: str, tmp_path: Path):
    """Also where patches extend beyond the image."""
    path = tmp_path / "d.pth"
    dust3r_file(path) if kind == "dust3r" else dino_file(path, registers=2)
    for patch in (16, 32):
        network = student("vit", pretrained=path, patch=patch)
        assert ("non-commercial" in network.licence) == (kind == "dust3r")
        check_export(network, "vit", 8, tmp_path / "m.onnx")


# Freezing


def two_steps(network: Student) -> None:
    """Train on two images on the CPU in full precision.

    Two steps, because some weights have no gradient while others are still zero.
    """
    optimizer = torch.optim.AdamW(network.parameter_groups(), 1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        points, sigma = network.train()(images(2))
        (points.square().mean() + sigma.mean()).backward()
        optimizer.step()


def frozen_names(network: Student) -> set[str]:
    return {name for name, p in network.named_parameters() if not p.requires_grad}


def test_training_does_not_change_a_frozen_backbone(tmp_path: Path):
    """Neither weights nor batch statistics; the other parameters change."""
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


def test_the_last_blocks_of_a_backbone_can_be_trained(tmp_path: Path):
    path = torchvision_file(tmp_path / "m.pth")
    network = student("mobilenet", pretrained=path, freeze="all-but-last-2").train()
    count = len(network.features)
    for i, layer in enumerate(network.features):
        trained = i >= count - 2
        assert all(p.requires_grad == trained for p in layer.parameters())
        assert all(m.training == trained for m in layer.modules())
    assert network.join.training and not frozen_names(student("mobilenet", pretrained=path))
    figures = describe(network, CAMERA)
    frozen = sum(p.numel() for p in network.parameters() if not p.requires_grad)
    assert figures.trained == figures.parameters - frozen and frozen
    with pytest.raises(MoteError, match=f"at most the {count} blocks"):
        student("mobilenet", pretrained=path, freeze="all-but-last-99")


def test_a_pretrained_backbone_has_a_lower_learning_rate(tmp_path: Path):
    path = torchvision_file(tmp_path / "m.pth")
    network = student("mobilenet", pretrained=path, backbone_rate=0.05)
    backbone, rest = sorted(network.parameter_groups(), key=lambda group: group["rate"])
    assert (backbone["rate"], rest["rate"]) == (0.05, 1.0)
    assert set(backbone["params"]) == set(network.features.parameters())
    assert len(backbone["params"]) + len(rest["params"]) == len(list(network.parameters()))


def test_training_does_not_change_a_frozen_encoder(tmp_path: Path):
    """Except for the positions of a DUSt3R encoder: they are not in the file."""
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


# Unusable files

WIDE = {f"features.{i}.0.weight": torch.zeros(1) for i in range(13)}
BAD: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "missing": ("mobilenet", lambda path: None, "cannot be read"),
    "text": ("mobilenet", lambda path: path.write_bytes(b"<html>"), "is damaged or not a file"),
    "torn": (
        "mobilenet",
        lambda path: path.write_bytes(torchvision_file(path).read_bytes()[:5000]),
        "is damaged or not a file",
    ),
    "pickle": (
        "mobilenet",
        lambda path: path.write_bytes(pickle.dumps({"a": Path("x")})),
        "is damaged or not a file",
    ),
    "list": ("mobilenet", lambda path: torch.save([1, 2], path), "other than named tensors"),
    "numbers": ("mobilenet", lambda path: torch.save({"a": 1}, path), "other than named tensors"),
    "variant": (
        "mobilenet",
        lambda path: torchvision_file(path, "v3-large"),
        "are missing\\), expected torchvision's mobilenet_v3_small",
    ),
    "foreign": ("mobilenet", lambda path: torch.save(WIDE, path), "weights are missing"),
    "shape": (
        "mobilenet",
        lambda path: torchvision_file(path, **{"features.0.0.weight": torch.zeros(8, 3, 3, 3)}),
        r"found 0.0.weight of shape \(8, 3, 3, 3\), not \(16, 3, 3, 3\)",
    ),
    "no encoder": ("vit", torchvision_file, "contains no encoder of either kind"),
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
        "no usable position embedding",
    ),
    "other mlp": (
        "vit",
        lambda path: dino_file(path, **{"blocks.1.mlp.fc1.weight": torch.zeros(3, 64)}),
        "expected an encoder of DUSt3R or DINOv2",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_unusable_files_are_rejected(name: str, tmp_path: Path):
    family, write, message = BAD[name]
    path = tmp_path / "weights.pth"
    write(path)
    with pytest.raises(CheckpointError, match=message) as caught:
        student(family, pretrained=path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and "\n" not in text and len(text) < 400


@pytest.mark.parametrize("family", ["mobilenet", "vit"])
def test_reading_a_file_executes_no_code(family: str, tmp_path: Path):
    torch.save({"model": Hostile(tmp_path / "made")}, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match="is damaged or not a file"):
        student(family, pretrained=tmp_path / "weights.pth")
    assert not os.path.exists(tmp_path / "made")
