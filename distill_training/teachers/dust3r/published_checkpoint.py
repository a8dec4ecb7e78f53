"""Reader of the published checkpoints, which does not run code in them.

Such a file is a pickle, which can contain code. Only tensors, plain values and the namespace of the
training arguments are unpickled. Sizes are checked against the tensors before a network is created.
"""

import ast
import math
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distill_training.common.safe_load import are_named_tensors, load_plain
from distill_training.teachers.dust3r.network import DUSt3R, with_second_decoder
from mote_localization.errors import CheckpointError
from mote_localization.input_files import check_input

_EXPECTED = (
    "download DUSt3R_ViTLarge_BaseDecoder_{512_dpt,512_linear,224_linear}.pth from "
    "github.com/naver/dust3r (CC BY-NC-SA 4.0, non-commercial)"
)
_CLASS = "AsymmetricCroCo3DStereo"
# What the network computes; `args` of a checkpoint must state the same or nothing.
_MODES = {
    "pos_embed": "RoPE100",
    "output_mode": "pts3d",
    "depth_mode": ("exp", -math.inf, math.inf),
    "conf_mode": ("exp", 1, math.inf),
}
_SIZES = (
    "patch_size",
    "enc_embed_dim",
    "enc_depth",
    "enc_num_heads",
    "dec_embed_dim",
    "dec_depth",
    "dec_num_heads",
)
_MAX_BYTES = 4 << 30  # of the file; the published files have up to 2.3 GB
_MAX_PICKLE_BYTES = 4 << 20  # of the names and shapes in it; the published files have 0.2 MB
_MAX_ARGS = 4096  # characters of the network's arguments
_MAX_SIZE = 1 << 14  # limit of every size of the network


def load_checkpoint(path: Path | str) -> DUSt3R:
    """Return the network of a published checkpoint, on the CPU, for evaluation.

    Raises:
        CheckpointError: The file is missing, damaged or no DUSt3R checkpoint, or of a different
            network.
    """
    network, state = _open(Path(path))
    network.to_empty(device="cpu").load_state_dict(state)
    return network.eval().requires_grad_(False)


def describe_checkpoint(path: Path | str) -> DUSt3R:
    """Return the network of a published checkpoint without parameter values (device "meta").

    Raises:
        CheckpointError: As `load_checkpoint`.
    """
    return _open(Path(path))[0]


class _Unusable(Exception):
    """The file cannot be used; the message does not contain its name."""


def _open(path: Path) -> tuple[DUSt3R, Mapping[str, Tensor]]:
    """Return the network of a checkpoint on "meta", and its checked parameters, still on disk."""
    try:
        return _checked(path)
    except OSError as error:
        reason = f"cannot be read ({error.strerror or error})"
    except _Unusable as error:
        reason = str(error)
    raise CheckpointError(f"{path}: {reason}; {_EXPECTED}")


def _checked(path: Path) -> tuple[DUSt3R, Mapping[str, Tensor]]:
    """Return as `_open`; a message of an error does not contain the path."""
    content = _read(path)
    if not isinstance(content, dict) or not {"args", "model"} <= content.keys():
        found = (
            f"the keys {_some(content)}" if isinstance(content, dict) else type(content).__name__
        )
        raise _Unusable(f"found {found}, expected 'args' and 'model'")
    state = content["model"]
    if not are_named_tensors(state):
        raise _Unusable("found a 'model' that is no table of named tensors")
    net = _sizes(getattr(content["args"], "model", None), state)
    try:
        with torch.device("meta"):  # names and shapes without memory
            network = DUSt3R(**net)
    except (ValueError, RuntimeError) as error:
        raise _Unusable(f"found {error}") from error
    state = with_second_decoder(state)
    _check_tensors(state, network.state_dict())
    # A tensor can repeat a few bytes of the file; the second decoder may repeat the first.
    if sum(p.nbytes for p in network.parameters()) > 2 * path.stat().st_size:
        raise _Unusable("found tensors larger than the file")
    return network, state


def _read(path: Path) -> Any:
    """Return the unpickled content of the file; its tensors stay on disk."""
    check_input(path)
    size = path.stat().st_size
    if size > _MAX_BYTES:
        raise _Unusable(f"found {size / 1e9:.1f} GB, more than in any published file")
    if not zipfile.is_zipfile(path):
        with open(path, "rb") as file:
            start = file.read(16)
        raise _Unusable(
            f"found {size} bytes that begin with {start!r}, which are no file of torch.save or an "
            "incomplete one"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
        if any(m.compress_type != zipfile.ZIP_STORED for m in members):
            raise _Unusable("found a compressed archive, which torch.save does not write")
        if any(
            m.file_size > _MAX_PICKLE_BYTES for m in members if m.filename.endswith("/data.pkl")
        ):
            raise _Unusable("found more names and values than in any published file")
        return load_plain(path, mmap=True)
    except (_Unusable, OSError):
        raise
    except Exception as error:  # a damaged or hostile pickle can raise anything
        raise _Unusable(_unpickling_reason(error)) from error


def _unpickling_reason(error: Exception) -> str:
    """Return why unpickling failed, without the advice of torch on how to run code of the file."""
    wanted = re.search(r"GLOBAL (\S+)", str(error))
    if wanted:
        return f"found code in the file ({wanted[1][:60]}), which was not run"
    if isinstance(error, pickle.UnpicklingError):
        return "is damaged or no checkpoint"
    return f"is damaged or no checkpoint ({str(error).partition(chr(10))[0][:120]})"


def _sizes(call: Any, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the arguments of DUSt3R, checked against the tensors of the file."""
    given = _parse_call(call)
    for name, computed in _MODES.items():
        if given.get(name, computed) != computed:
            raise _Unusable(
                f"found a network with {name} = {str(given[name])[:60]}, expected {computed}"
            )
    net = {name: given[name] for name in ("head_type", "img_size", *_SIZES) if name in given}
    size = net.get("img_size", 0)
    if isinstance(size, int):
        net["img_size"] = size = (size, size)
    if not isinstance(size, tuple) or len(size) != 2:
        raise _Unusable(f"found img_size {str(size)[:60]}, expected height and width")
    for name, blocks in (("enc_depth", "enc_blocks"), ("dec_depth", "dec_blocks")):
        held = len({key.split(".")[1] for key in state if key.startswith(f"{blocks}.")})
        if net.setdefault(name, held) != held:
            raise _Unusable(f"found {name} = {str(net[name])[:60]} but {held} {blocks}")
    for value in (*size, *(net[name] for name in _SIZES if name in net)):
        if type(value) is not int or not 0 < value <= _MAX_SIZE:
            raise _Unusable(
                f"found a network with a size of {str(value)[:60]}, expected 1 to {_MAX_SIZE}"
            )
    return net


def _parse_call(text: Any) -> dict[str, Any]:
    """Return the known arguments of "AsymmetricCroCo3DStereo(name=value, …)"; runs no code."""
    if not isinstance(text, str) or len(text) > _MAX_ARGS:
        raise _Unusable("found no description of the network in 'args.model'")
    try:
        call = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _Unusable(f"found the network {repr(text)[:60]}, expected '{_CLASS}(…)'") from error
    if not (
        isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and call.func.id == _CLASS
        and not call.args
    ):
        raise _Unusable(f"found the network {repr(text)[:60]}, expected '{_CLASS}(…)'")
    known = {"head_type", "img_size", *_SIZES, *_MODES}
    return {k.arg: _literal(k.value) for k in call.keywords if k.arg in known}


def _literal(node: ast.expr) -> Any:
    """Return the value of a constant, inf, or a tuple of these."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name) and node.id == "inf":
        return math.inf
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _literal(node.operand)
        if isinstance(value, int | float):
            return -value
    if isinstance(node, ast.Tuple | ast.List):
        return tuple(_literal(element) for element in node.elts)
    raise _Unusable("found a network whose arguments are no plain values")


def _check_tensors(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise unless names, shapes and types of the tensors are the expected ones."""
    missing, foreign = expected.keys() - found.keys(), found.keys() - expected.keys()
    if missing or foreign:
        raise _Unusable(
            f"{len(missing)} tensors are missing and {len(foreign)} are unknown, such as "
            f"{_some(missing | foreign)}"
        )
    for name, tensor in found.items():
        if tensor.shape != expected[name].shape:
            raise _Unusable(
                f"found {name[:60]} of shape {str(tuple(tensor.shape))[:40]}, expected "
                f"{tuple(expected[name].shape)}"
            )
        if tensor.dtype != torch.float32 or tensor.layout != torch.strided or tensor.is_meta:
            raise _Unusable(f"found {name[:60]} as {tensor.dtype}, expected float32 values")


def _some(names: Any) -> str:
    """Return the first two names, shortened."""
    return ", ".join(name[:40] for name in sorted(map(str, names))[:2]) or "none"
