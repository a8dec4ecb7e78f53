"""Loads the encoder of a published checkpoint: DUSt3R or DINOv2."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from distill_training.common import licences
from distill_training.students.head import ImageInput, ImageNetInput
from distill_training.students.pretrained import load_weights, read_weights
from distill_training.students.vit_encoder import Encoder, Patches
from mote_localization.errors import CheckpointError

_HEAD_CHANNELS = 64  # channels of an attention head of all published encoders
_MAX_CHANNELS = 2048
_MAX_KERNEL = 32  # px
_EXPECTED = "expected a checkpoint of DUSt3R or a DINOv2 backbone (ViT-S, -B or -L)"
# Prefixes of names in the files -> prefixes of the names here.
_DUST3R = {"patch_embed.": "patch_embed.", "enc_blocks.": "enc_blocks.", "enc_norm.": "enc_norm."}
_DINO = {"patch_embed.": "patch_embed.", "blocks.": "enc_blocks.", "norm.": "enc_norm."}


@dataclass(frozen=True)
class Published:
    """A published encoder."""

    encoder: Encoder
    input: nn.Module  # normalizes images as the encoder expects them
    backbone: list[nn.Module]  # all modules whose weights came from the file
    blocks: list[nn.Module]  # parts of the backbone, from the image on
    licence: str  # licence that the weights put on maps; empty: none


def load_encoder(
    path: Path, depth: int, patch: int, size: tuple[int, int], grid: tuple[int, int]
) -> Published:
    """Return the first blocks of a published encoder, for images of one size.

    DUSt3R's encoder uses rotary position embedding, which a map cannot store. Its weights are
    loaded without it; an untrained learned embedding replaces it.

    Args:
        path: The file.
        depth: Number of blocks.
        patch: Side of a token's patch, px; the image is scaled to the file's patch size.
        size: Height and width of the images, px.
        grid: Rows and columns of the patches.

    Raises:
        CheckpointError: The file is unusable or contains no encoder of either kind.
    """
    state = read_weights(path)
    dust3r = "enc_norm.weight" in state
    weights = {
        ours + name[len(theirs) :]: value
        for theirs, ours in (_DUST3R if dust3r else _DINO).items()
        for name, value in state.items()
        if name.startswith(theirs)
    }
    found_blocks = {m[1] for m in map(re.compile(r"enc_blocks\.(\d+)\.").match, weights) if m}
    shape = weights.get("patch_embed.proj.weight", torch.empty(0)).shape
    if not found_blocks or len(shape) != 4 or shape[2] != shape[3]:
        raise CheckpointError(f"{path}: contains no encoder of either kind, {_EXPECTED}")
    channels, kernel = shape[0], shape[2]
    if channels % _HEAD_CHANNELS or channels > _MAX_CHANNELS or kernel > _MAX_KERNEL:
        raise CheckpointError(
            f"{path}: found tokens of {channels} channels for patches of {kernel} px, {_EXPECTED}"
        )
    if len(found_blocks) < depth:
        raise CheckpointError(
            f"{path}: found {len(found_blocks)} encoder blocks, expected {depth} or more"
        )
    prefix_1kc, positions_1crw = (None, None) if dust3r else _embeddings(state, channels, path)
    encoder = Encoder(
        Patches(channels, kernel, patch, size, grid),
        grid,
        channels,
        heads=channels // _HEAD_CHANNELS,
        depth=depth,
        scaled="enc_blocks.0.ls1.gamma" in weights,
        prefix_1kc=prefix_1kc,
    )
    parts = {name: getattr(encoder, name) for name in ("patch_embed", "enc_blocks", "enc_norm")}
    load_weights(nn.ModuleDict(parts), weights, path, "an encoder of DUSt3R or DINOv2")
    first = [encoder.patch_embed]
    if positions_1crw is not None:
        encoder.positions.load_state_dict({"values": positions_1crw})
        first.append(encoder.positions)
    if encoder.prefix is not None:
        first.append(encoder.prefix)
    return Published(
        encoder,
        ImageInput(127.5, 1) if dust3r else ImageNetInput(),
        backbone=[*first, encoder.enc_blocks, encoder.enc_norm],
        blocks=[nn.ModuleList(first), *encoder.enc_blocks],
        licence=licences.DUST3R if dust3r else "",
    )


def _embeddings(state: Mapping[str, Tensor], channels: int, path: Path) -> tuple[Tensor, Tensor]:
    """Return DINOv2's tokens without a patch (1, k, c) and position embedding (1, c, r, w)."""
    try:
        first, positions_1nc = state["cls_token"], state["pos_embed"]
        side = round((positions_1nc.shape[1] - 1) ** 0.5)
        if side < 1:
            raise IndexError("only one token")
        positions_1crw = positions_1nc[:, 1:].mT.reshape(1, channels, side, side)
        tokens = [first + positions_1nc[:, :1]]
        if "register_tokens" in state:
            tokens.append(state["register_tokens"])
        return torch.cat(tokens, dim=1).reshape(1, -1, channels).float(), positions_1crw
    except (KeyError, IndexError, RuntimeError) as error:
        raise CheckpointError(f"{path}: found no usable position embedding, {_EXPECTED}") from error
