"""The DUSt3R network against its reference outputs, its checkpoints, images and pairs."""

import argparse
import importlib.util
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")

import torch  # noqa: E402
from test_camera import photograph, scenery  # noqa: E402

from distill_training.teachers.dust3r import DUSt3R, Dust3r, load_checkpoint  # noqa: E402
from distill_training.teachers.dust3r.network import with_second_decoder  # noqa: E402
from distill_training.teachers.dust3r.prepare import prepare, prepared_camera  # noqa: E402
from distill_training.teachers.pairwise.pair_predictor import Encoded, PairPredictor  # noqa: E402
from distill_training.training.identity import file_sha256  # noqa: E402
from mote_localization.camera import Camera, cell_pixels  # noqa: E402
from mote_localization.errors import (  # noqa: E402
    CameraError,
    CheckpointError,
    MoteError,
    SceneError,
)
from mote_localization.scenes import Frame  # noqa: E402

pytestmark = pytest.mark.train
SMALL = {
    "head_type": "linear",
    "img_size": (64, 64),
    "enc_embed_dim": 32,
    "enc_depth": 2,
    "enc_num_heads": 2,
    "dec_embed_dim": 24,
    "dec_depth": 2,
    "dec_num_heads": 2,
}
MODES = "pos_embed='RoPE100', patch_embed_cls='ManyAR_PatchEmbed', output_mode='pts3d', "
RANGES = "depth_mode=('exp', -inf, inf), conf_mode=('exp', 1, inf), "
CALL = (
    f"AsymmetricCroCo3DStereo({MODES}{RANGES}{', '.join(f'{k}={v!r}' for k, v in SMALL.items())})"
)


def small_network(seed: int = 0, **changes) -> DUSt3R:
    torch.manual_seed(seed)
    return DUSt3R(**{**SMALL, **changes}).eval().requires_grad_(False)


def views(*sizes: tuple[int, int], batch: int = 1, seed: int = 0) -> list[torch.Tensor]:
    """Return random images (batch, 3, height, width) in [-1, 1]."""
    draw = torch.Generator().manual_seed(seed)
    return [2 * torch.rand(batch, 3, *size, generator=draw) - 1 for size in sizes]


def assert_close(found, expected, relative: float = 1e-5) -> None:
    """Check that tensors agree to a fraction of their largest magnitude."""
    for a, b in zip(found, expected, strict=True):
        assert torch.abs(a - b).max() < relative * b.abs().max()


def with_recipe_weights(network: DUSt3R, shared_data: Path):
    """Return the network with the weights of the reference, and the reference's image function."""
    path = shared_data / "golden/recipe_weights.py"
    spec = importlib.util.spec_from_file_location("recipe_weights", path)
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    state = network.state_dict()
    network.load_state_dict(
        {k: torch.from_numpy(recipe.recipe_weight(k, tuple(v.shape))) for k, v in state.items()}
    )
    return network.eval().requires_grad_(False), recipe.recipe_image


@pytest.mark.parametrize("head", ["dpt", "linear"])
def test_outputs_are_the_reference_outputs(head: str, shared_data: Path):
    """Landscape and portrait images. `layer_rn` is loaded last of the two names of one module."""
    golden = json.loads((shared_data / f"golden/tiny_{head}.json").read_text())
    expected = np.load(shared_data / f"golden/tiny_{head}.npz")
    network, image = with_recipe_weights(DUSt3R(**golden["net"]), shared_data)
    for row, (seed, height, width, batch) in enumerate(golden["inputs"]):
        pair = [
            np.stack([image(seed + 2 * b + view, height, width) for b in range(batch)])
            for view in (0, 1)
        ]
        found = network(*map(torch.from_numpy, pair))
        names = ("pts3d_1", "conf_1", "pts3d_2", "conf_2")
        assert_close(found, [torch.from_numpy(expected[f"{row}_{name}"]) for name in names])


@pytest.mark.parametrize(
    ("name", "net"),
    [
        ("512_dpt", {}),
        ("224_linear", {"head_type": "linear", "img_size": (224, 224)}),
    ],
)
def test_full_size_networks_have_the_published_names_and_shapes(name, net, shared_data: Path):
    published = json.loads((shared_data / f"golden/dust3r_vitl_{name}.keys.json").read_text())
    with torch.device("meta"):
        state = DUSt3R(**net).state_dict()
    assert {key: list(value.shape) for key, value in state.items()} == published


@pytest.mark.parametrize("head", ["dpt", "linear"])
def test_views_may_have_different_sizes_and_odd_grids(head: str):
    network = small_network(head_type=head, dec_depth=4)
    points1, conf1, points2, conf2 = network(*views((48, 80), (112, 16), batch=2))
    assert points1.shape == (2, 48, 80, 3) and conf1.shape == (2, 48, 80)
    assert points2.shape == (2, 112, 16, 3) and conf2.shape == (2, 112, 16)
    assert conf1.min() > 1 and conf2.min() > 1


def test_a_missing_second_decoder_gets_the_parameters_of_the_first():
    state = small_network().state_dict()
    one = {k: v for k, v in state.items() if not k.startswith("dec_blocks2")}
    network = small_network(seed=1)
    network.load_state_dict(with_second_decoder(one))
    for name, value in network.dec_blocks2.state_dict().items():
        assert torch.equal(value, state[f"dec_blocks.{name}"])


def test_heads_stay_float32_in_half_precision():
    network = small_network(head_type="dpt", dec_depth=4)
    kinds = []
    head = network.downstream_head1.dpt
    head.register_forward_hook(lambda module, given, out: kinds.append(out.dtype))
    network.dec_blocks[0].mlp.register_forward_hook(
        lambda module, given, out: kinds.append(out.dtype)
    )
    pair = views((64, 64), (64, 64))
    with torch.autocast("cpu", torch.bfloat16):
        found = network(*pair)
    assert kinds == [torch.bfloat16, torch.float32]
    assert_close(found, network(*pair), relative=0.05)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_gpu_and_cpu_predict_the_same():
    network = small_network(head_type="dpt", dec_depth=4)
    pair = views((64, 48), (64, 48), batch=2)
    expected = network(*pair)
    found = network.cuda()(*(view.cuda() for view in pair))
    assert all(f.dtype == torch.float32 for f in found)
    assert_close([f.cpu() for f in found], expected, relative=0.05)


@pytest.mark.parametrize(
    "wrong",
    [
        {"enc_num_heads": 5},
        {"dec_num_heads": 12},
        {"head_type": "mlp"},
        {"head_type": "dpt"},
        {"head_type": "dpt", "dec_depth": 4, "patch_size": 8},
    ],
)
def test_incompatible_sizes_are_rejected(wrong: dict):
    with pytest.raises(ValueError, match="expected"):
        small_network(**wrong)


def test_an_image_size_that_is_no_multiple_of_the_patch_size_is_rejected():
    with pytest.raises(ValueError, match="40x64 px, expected multiples of 16"):
        small_network().encode(*views((64, 40)))


# Checkpoints


def content(**changes) -> dict:
    return {"args": argparse.Namespace(model=CALL), "model": small_network().state_dict()} | changes


@pytest.mark.parametrize("head", ["dpt", "linear"])
def test_a_checkpoint_is_read_with_its_sizes(head: str, tmp_path: Path):
    network = small_network(head_type=head, dec_depth=4)
    call = CALL.replace("'linear'", f"'{head}'").replace("dec_depth=2", "dec_depth=4")
    torch.save(
        {"args": argparse.Namespace(model=call, lr=1e-4), "model": network.state_dict()},
        tmp_path / "c.pth",
    )
    loaded = load_checkpoint(tmp_path / "c.pth")
    assert (loaded.head_type, loaded.img_size) == (head, (64, 64))
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    pair = views((64, 48), (64, 48))
    assert_close(loaded(*pair), network(*pair), relative=1e-6)


def test_a_checkpoint_without_second_decoder_is_read(tmp_path: Path):
    state = {k: v for k, v in content()["model"].items() if "dec_blocks2" not in k}
    torch.save(content(model=state), tmp_path / "c.pth")
    assert load_checkpoint(tmp_path / "c.pth").dec_blocks2[0].mlp.fc1.weight.any()


class Hostile:
    """Creates a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self._folder,)


def call(old: str, new: str) -> dict:
    assert old in CALL
    return content(args=argparse.Namespace(model=CALL.replace(old, new)))


def state(**changes) -> dict:
    return content(model={**small_network().state_dict(), **changes})


def repeated_bytes() -> dict:
    """Return a checkpoint of few bytes with huge tensors."""
    with torch.device("meta"):
        large = small_network(enc_embed_dim=8192).state_dict()
    made = call("enc_embed_dim=32", "enc_embed_dim=8192")
    return made | {"model": {k: torch.zeros(()).expand(v.shape) for k, v in large.items()}}


BAD: dict[str, tuple[Callable[[], object], str]] = {
    "no dictionary": (lambda: [1, 2], "found list, expected 'args' and 'model'"),
    "state alone": (lambda: small_network().state_dict(), "keys dec_blocks.0.attn.proj.bias"),
    "no tensors": (lambda: content(model={"a": 1}), "no table of named tensors"),
    "no args": (lambda: content(args=None), "no description of the network"),
    "no call": (lambda: call("AsymmetricCroCo3DStereo(", "("), "expected 'Asymmetric"),
    "no python": (lambda: call("AsymmetricCroCo3DStereo(", "(("), "expected 'Asymmetric"),
    "deep": (lambda: content(args=argparse.Namespace(model="-" * 4000 + "1")), "the network '---"),
    "long": (lambda: call("AsymmetricCroCo3DStereo", "A" * 5000), "no description of the network"),
    "other network": (lambda: call("AsymmetricCroCo3DStereo", "AsymmetricMASt3R"), "Asymmetric"),
    "code": (lambda: call("(64, 64)", "__import__('os').abort()"), "no plain values"),
    "position": (lambda: call("RoPE100", "cosine"), "pos_embed = cosine"),
    "depth mode": (lambda: call("('exp', -inf, inf)", "('square', -inf, inf)"), "depth_mode"),
    "confidence mode": (lambda: call("('exp', 1, inf)", "('sigmoid', 0, 1)"), "conf_mode"),
    "head": (lambda: call("'linear'", "'catmlp+dpt'"), r"head 'catmlp\+dpt'"),
    "image size": (lambda: call("(64, 64)", "(64, -inf)"), "size of -inf"),
    "sides": (lambda: call("(64, 64)", "(64, 64, 64)"), "expected height and width"),
    "depth": (lambda: call("enc_depth=2", "enc_depth=10**9"), "no plain values"),
    "blocks": (lambda: call("enc_depth=2", "enc_depth=999999999"), "but 2 enc_blocks"),
    "width": (lambda: call("enc_embed_dim=32", "enc_embed_dim=99999999"), "size of 99999999"),
    "heads": (lambda: call("enc_num_heads=2", "enc_num_heads=3"), "32 channels in 3 heads"),
    "width lies": (lambda: call("dec_embed_dim=24", "dec_embed_dim=48"), "expected .1, 1, 48."),
    "foreign tensor": (lambda: state(more=torch.zeros(1)), "1 are unknown, such as more;"),
    "wrong shape": (lambda: state(mask_token=torch.zeros(1, 1, 23)), "found mask_token of shape"),
    "half": (lambda: state(mask_token=torch.zeros(1, 1, 24).half()), "torch.float16"),
    "meta": (lambda: state(mask_token=torch.zeros(1, 1, 24, device="meta")), "mask_token as"),
    "views": (repeated_bytes, "tensors larger than the file"),
    "many values": (
        lambda: content(args=argparse.Namespace(model=CALL, more="x" * (5 << 20))),
        "more names and values",
    ),
}


def assert_rejected(path: Path, message: str) -> None:
    """Check the message: file, reason, and what to do, in at most 300 characters."""
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and "\n" not in text and len(text) - len(str(path)) <= 300
    assert "BaseDecoder_{512_dpt,512_linear,224_linear}.pth" in text
    assert "download" in text and "CC BY-NC-SA 4.0" in text


@pytest.mark.parametrize("name", BAD)
def test_a_foreign_checkpoint_is_rejected(name: str, tmp_path: Path):
    make, message = BAD[name]
    torch.save(make(), tmp_path / "c.pth")
    assert_rejected(tmp_path / "c.pth", message)


@pytest.mark.parametrize("where", ["args", "model", "namespace"])
def test_a_checkpoint_runs_no_code(where: str, tmp_path: Path):
    hostile = Hostile(tmp_path / "made")
    changes = {"args": argparse.Namespace(model=CALL, x=hostile)}
    torch.save(
        content(**(changes if where == "namespace" else {where: hostile})), tmp_path / "c.pth"
    )
    assert_rejected(tmp_path / "c.pth", "code in the file .posix.mkdir., which was not run")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "found 0 bytes"),
        (b"<!DOCTYPE html><html>", "begin with b'<!DOCTYPE html><'"),
        (b"version https://git-lfs.github.com/spec/v1", "no file of torch.save"),
    ],
)
def test_a_file_of_another_type_is_rejected(data: bytes, message: str, tmp_path: Path):
    (tmp_path / "c.pth").write_bytes(data)
    assert_rejected(tmp_path / "c.pth", message)


@pytest.mark.parametrize("fraction", [0.2, 0.9, 0.999])
def test_a_truncated_checkpoint_is_rejected(fraction: float, tmp_path: Path):
    path = tmp_path / "c.pth"
    torch.save(content(), path)
    path.write_bytes(path.read_bytes()[: int(fraction * path.stat().st_size)])
    assert_rejected(path, "or an incomplete one")


def test_an_archive_of_other_files_is_rejected(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "c.pth", "w") as archive:
        archive.writestr("c/readme.txt", "no tensors")
    assert_rejected(tmp_path / "c.pth", "damaged or no checkpoint")


def test_a_compressed_archive_is_rejected(tmp_path: Path):
    torch.save(content(), tmp_path / "whole.pth")
    with (
        zipfile.ZipFile(tmp_path / "whole.pth") as whole,
        zipfile.ZipFile(tmp_path / "c.pth", "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for name in whole.namelist():
            archive.writestr(name, whole.read(name))
    assert_rejected(tmp_path / "c.pth", "compressed")


def test_a_huge_file_is_rejected_without_reading_it(tmp_path: Path):
    with open(tmp_path / "c.pth", "wb") as file:
        file.truncate(5 << 30)
    assert_rejected(tmp_path / "c.pth", "found 5.4 GB")


def test_a_missing_file_and_a_folder_are_rejected(tmp_path: Path):
    assert_rejected(tmp_path / "none.pth", "cannot be read .No such file")
    assert_rejected(tmp_path, "cannot be read .Is a directory|found")


# Images


@pytest.mark.parametrize(
    ("width", "height", "size", "prepared"),
    [
        (640, 480, 512, (512, 384)),
        (480, 640, 512, (384, 512)),
        (1600, 1200, 512, (512, 384)),
        (1920, 1080, 512, (512, 288)),
        (641, 427, 512, (512, 336)),  # 341 px high; half sizes in steps of 8 px
        (320, 240, 512, (512, 384)),
        (600, 600, 512, (512, 384)),
        (512, 16, 512, (512, 16)),
        (640, 480, 224, (224, 224)),
        (101, 235, 224, (224, 224)),
    ],
)
def test_a_prepared_image_matches_its_camera(width, height, size, prepared):
    """The pattern rendered for the prepared camera has the same position as in the image."""
    live = Camera(width, height, 0.9 * width, 0.95 * width, 0.47 * width, 0.52 * height)
    camera = prepared_camera(live, size)
    assert (camera.width, camera.height) == prepared
    image_3hw = prepare(photograph(live), size)
    assert image_3hw.shape == (3, *prepared[::-1]) and image_3hw.dtype == torch.float32
    found_hw3 = 127.5 * (image_3hw.permute(1, 2, 0).numpy() + 1)
    drawn_hw3 = scenery(camera.rays(cell_pixels(*prepared, 1)))
    gradients = np.stack([g.ravel() for g in np.gradient(drawn_hw3, axis=(1, 0))], axis=-1)
    offset_px = np.linalg.lstsq(gradients, (found_hw3 - drawn_hw3).ravel(), rcond=None)[0]
    assert np.abs(offset_px).max() < 0.02
    assert np.abs(found_hw3 - drawn_hw3).mean() < 1


def test_prepared_images_have_values_from_minus_one_to_one():
    image_hw3 = np.zeros((48, 64, 3), np.uint8)
    image_hw3[:, 32:] = 255
    image_3hw = prepare(image_hw3, 64)
    assert (image_3hw.min(), image_3hw.max()) == (-1, 1) and image_3hw[0, 0, 0] == -1


@pytest.mark.parametrize(
    ("width", "height", "size"), [(1700, 50, 512), (50, 1700, 512), (9000, 100, 224)]
)
def test_a_too_narrow_image_is_rejected(width, height, size):
    camera = Camera(width, height, 100.0, 100.0, 1.0, 1.0)
    with pytest.raises(CameraError, match=f"{width}x{height} px, expected a long side"):
        prepared_camera(camera, size)


# The predictor


class Noise(Frame):
    """A frame of random pixels."""

    def __init__(self, width: int, height: int, seed: int = 0) -> None:
        self.name, self._seed = "a", seed
        self.camera = Camera(width, height, 50.0, 50.0, width / 2, height / 2)

    def image(self) -> np.ndarray:
        shape = (self.camera.height, self.camera.width, 3)
        return np.random.default_rng(self._seed).integers(0, 255, shape, np.uint8)


def encode(predictor: PairPredictor, frame: Frame) -> Encoded:
    return predictor.encode(frame, frame.image(), frame.camera)


@pytest.mark.parametrize("other_size", [(80, 60), (60, 80)])
def test_pairs_of_encoded_images_are_predicted_as_pairs_of_images(other_size: tuple[int, int]):
    """In both orders, in batches, with one or two image sizes."""
    network = small_network()
    dust3r = Dust3r(network, "", "cpu")
    ones = [Noise(80, 60, seed) for seed in (0, 1)]
    others = [Noise(*other_size, seed) for seed in (2, 3)]
    found_pairs = dust3r.decode(*([encode(dust3r, f) for f in side] for side in (ones, others)))
    one, other = (torch.stack([prepare(f.image(), 64) for f in side]) for side in (ones, others))
    for answer, direct in zip(found_pairs, (network(one, other), network(other, one)), strict=True):
        expected = [direct[0], direct[1].log(), direct[2], direct[3].log()]
        found = [
            answer.first.points_bhw3,
            answer.first.confidence_bhw,
            answer.second.points_bhw3,
            answer.second.confidence_bhw,
        ]
        assert all(f.dtype == torch.float32 for f in found)
        assert_close(found, expected, relative=5e-3)  # tokens are stored in half precision


def test_the_predictor_fulfils_the_protocol(tmp_path: Path):
    torch.save(content(), tmp_path / "c.pth")
    dust3r: PairPredictor = Dust3r.open(tmp_path / "c.pth", "cpu")
    assert dust3r.settings == {
        "checkpoint_sha256": file_sha256(tmp_path / "c.pth"),
        "head": "linear",
        "input_px": 64,
        "precision": "fp32",
    }
    assert "CC BY-NC-SA 4.0" in dust3r.licence
    frame = Noise(80, 60)
    image = encode(dust3r, frame)
    assert image.features.dtype == np.float16 and image.features.shape == (3, 4, 32)
    assert image.camera == dust3r.camera(frame.camera)
    descriptor = dust3r.descriptor(image)
    assert descriptor.shape == (32,) and descriptor.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(descriptor), 1, atol=1e-6)


def test_confidence_is_0_where_the_network_predicts_its_lowest_value():
    network = small_network()
    for head in (network.downstream_head1, network.downstream_head2):
        head.proj.weight[3 * 256 :] = 0  # the confidence channel of 16x16 px
        head.proj.bias[3 * 256 :] = -100
        head.proj.bias[4 * 256 - 1] = 50
    dust3r = Dust3r(network, "", "cpu")
    images = [encode(dust3r, Noise(64, 64))]
    for answer in dust3r.decode(images, images):
        for pointmap in (answer.first, answer.second):
            confidence_bpp = pointmap.confidence_bhw.unfold(1, 16, 16).unfold(2, 16, 16)
            assert (confidence_bpp[..., 15, 15] == 50).all()
            assert (confidence_bpp.flatten(-2)[..., :-1] == 0).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_settings_differ_between_gpu_and_cpu():
    settings = [Dust3r(small_network(), "", device).settings for device in ("cpu", "cuda")]
    assert settings[0] != settings[1] and settings[1]["precision"] in ("bf16", "fp16")


def test_parameters_are_read_when_the_first_image_is_encoded(tmp_path: Path):
    """A finished reconstruction needs the settings of the checkpoint, but not its parameters."""
    path = tmp_path / "c.pth"
    torch.save(content(), path)
    ready, waiting = (Dust3r.open(path, "cpu") for _ in range(2))
    frame = Noise(80, 60)
    tokens = encode(ready, frame)
    whole = Dust3r(small_network(), "", "cpu")
    assert np.array_equal(tokens.features, encode(whole, frame).features)
    path.unlink()
    assert waiting.camera(frame.camera) == tokens.camera
    assert waiting.settings == ready.settings
    encode(ready, frame)  # the parameters are in memory
    with pytest.raises(CheckpointError, match=r"c\.pth: cannot be read"):
        encode(waiting, frame)


def test_an_unusable_image_is_an_error_with_the_name_of_the_frame():
    dust3r, frame = Dust3r(small_network(), "", "cpu"), Noise(300, 20)
    with pytest.raises(SceneError, match="frame a: found an image of 300x20 px"):
        encode(dust3r, frame)
    with pytest.raises(SceneError, match="frame a: found an image of shape"):
        dust3r.encode(frame, frame.image()[:, :20], frame.camera)


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_an_unknown_device_is_rejected(device: str):
    with pytest.raises(MoteError, match=f"found device '{device}'"):
        Dust3r(small_network(), "", device)


def test_a_checkpoint_is_identified_by_its_sha256(tmp_path: Path):
    (tmp_path / "c").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_sha256(tmp_path / "c") == expected
    with pytest.raises(CheckpointError, match="none: cannot be read"):
        file_sha256(tmp_path / "none")
