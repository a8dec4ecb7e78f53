"""The teacher and its settings, as the part of a command line that chooses them."""

import logging
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from distill_training.common.dependencies import structure_from_motion_packages, training_packages
from distill_training.poses.measured_depth import have_depth
from distill_training.poses.poses_config import PosesConfig, SfmConfig
from distill_training.reconstruction import Reconstruction, begun_reconstruction
from distill_training.teachers.damaged_frames import without_damaged
from distill_training.teachers.depth_files.depth_folder import DepthFolder
from distill_training.teachers.teacher_config import (
    CellsConfig,
    FilesConfig,
    PhotographsConfig,
    RgbdConfig,
    SimulatedConfig,
)
from mote_localization.camera import Camera
from mote_localization.command_line import File, Flat, print_table
from mote_localization.errors import MoteError
from mote_localization.scenes import RecordingOptions, Scene, open_scene
from mote_localization.scenes.training_selection import TrainingSelection

_log = logging.getLogger(__name__)

_TeacherName = Literal["auto", "rgbd", "sfm", "dust3r", "simulated", "files"]

# teacher -> sources of poses that it can use
_POSES_OF = {
    "rgbd": ("given", "refine", "sfm"),
    "sfm": ("given", "refine", "sfm"),
    "dust3r": ("given", "refine", "sfm", "dust3r"),
    "simulated": ("given", "refine", "sfm", "dust3r"),
    "files": ("given", "refine", "sfm", "files"),
}

# of the training frames, that are left out as they lack a pose or depth, or are damaged
MAX_LACKING = 0.2
_WORK = "work"  # folder of intermediate files, inside that of the reconstruction
# options of structure from motion that refine uses
_REFINE_FLAGS = ("--sfm.max-px", "--sfm.max-features", "--sfm.peak-threshold", "--sfm.per-image")
_SOURCES = {
    "auto": "given",
    "given": "given",
    "refine": "given, then refined so that the images agree",
    "sfm": "structure from motion",
    "dust3r": "alignment of pairs of photographs",
    "files": "those of the depth files, in their own frame",
}


@dataclass(frozen=True)
class Dust3rConfig:
    """The DUSt3R network and its device."""

    # published weights of the network for dust3r, NAME.pth; CC BY-NC-SA 4.0, non-commercial
    checkpoint: File = None
    device: str = "auto"  # of dust3r: cpu, cuda; auto: the GPU where there is one


@dataclass(frozen=True)
class Teacher:
    """What measures the 3-D points that a student learns."""

    # rgbd: measured depth; sfm: points triangulated by structure from motion; dust3r: a network
    # that predicts pointmaps of pairs of photographs; files: depth that another network wrote;
    # simulated: measured depth with the errors of a network for pairs, to test alignment; auto:
    # files with --files, dust3r with --checkpoint, rgbd where the scene has depth, else sfm
    teacher: _TeacherName = "auto"
    poses: Annotated[PosesConfig, Flat] = field(default_factory=PosesConfig)
    cells: Annotated[CellsConfig, Flat] = field(default_factory=CellsConfig)
    rgbd: Annotated[RgbdConfig, Flat] = field(default_factory=RgbdConfig)
    dust3r: Annotated[Dust3rConfig, Flat] = field(default_factory=Dust3rConfig)
    photographs: Annotated[PhotographsConfig, Flat] = field(default_factory=PhotographsConfig)
    files: Annotated[FilesConfig, Flat] = field(default_factory=FilesConfig)
    # size of the simulated network's errors
    simulated: SimulatedConfig = field(default_factory=SimulatedConfig)

    def __post_init__(self) -> None:
        """Reject flags of other teachers, and dust3r without its checkpoint."""
        if self.teacher == "auto":
            return  # the flags are checked when the scene decides the teacher
        for config, prefix, users in (
            (self.rgbd, "--", ("rgbd",)),
            (self.dust3r, "--", ("dust3r",)),
            (self.photographs, "--", ("dust3r", "simulated")),
            (self.files, "--", ("files",)),
            (self.simulated, "--simulated.", ("simulated",)),
        ):
            given = ", ".join(_changed_flags(config, prefix))
            if given and self.teacher not in users:
                raise MoteError(
                    f"found {given} with --teacher {self.teacher}, expected --teacher "
                    f"{' or '.join(users)}"
                )
        sources = _POSES_OF[self.teacher]
        if self.poses.poses not in ("auto", *sources):
            raise MoteError(
                f"found --poses {self.poses.poses} with --teacher {self.teacher}, expected --poses "
                f"{' or '.join(sources)}"
            )
        if self.teacher == "dust3r" and self.dust3r.checkpoint is None:
            raise MoteError(
                "--teacher dust3r needs --checkpoint FILE: download "
                "DUSt3R_ViTLarge_BaseDecoder_512_dpt.pth yourself, see github.com/naver/dust3r "
                "(CC BY-NC-SA 4.0, non-commercial)"
            )
        if self.teacher == "files" and self.files.files is None:
            raise MoteError(
                "--teacher files needs --files FOLDER: depth of the images, written by another "
                "network's script, see docs/depth_files.md"
            )

    def reconstruct(self, scene: Path, folder: Path) -> Reconstruction:
        """Reconstruct a scene, or resume an interrupted run; print a table for photographs.

        Raises:
            MoteError: The scene or the checkpoint cannot be used, a package is missing, or the
                folder holds another reconstruction.
        """
        return self.plan(scene).reconstruct(folder)

    def plan(self, scene: Path, recording: RecordingOptions | None = None) -> "Plan":
        """Open a scene, and return what will be done with it.

        Args:
            scene: Recording of any layout.
            recording: Which of its topics and frames are used.

        Raises:
            MoteError: The scene cannot be used, options do not fit it, or a package is missing.
        """
        return self.plan_of(open_scene(scene, recording))

    def plan_of(self, opened: Scene) -> "Plan":
        """Return what will be done with a scene; see `plan`."""
        found = Found.of(opened)
        left_out = self._lacking(opened, found)
        if left_out:
            opened = TrainingSelection(opened, left_out)
            found = Found.of(opened)
        decided = self.decided(found)
        decided._check_frames(opened, found)
        decided._check_packages()
        held = opened.described()
        rows = {"recording": f"{held['recording']}; images: {held['images']}"}
        rows |= self._described(found, decided)
        return Plan(opened, decided, rows)

    def _lacking(self, scene: Scene, found: "Found") -> set[str]:
        """Return the training frames to leave out: a few lack a pose or depth that most have.

        A warning states their number.
        """
        frames = list(scene.frames("train"))
        without: dict[str, list[str]] = {}
        if self.poses.poses in ("auto", "given", "refine"):
            without["pose"] = [frame.name for frame in frames if frame.T_map_cam is None]
        if self._chosen_teacher(found) == "rgbd" and found.depth:
            without["depth"] = [frame.name for frame in frames if not frame.has_depth()]
        left_out: set[str] = set()
        for what, names in without.items():
            if 0 < len(names) <= MAX_LACKING * len(frames):
                _log.warning(
                    "%s: %d of %d training frames have no %s and are left out (%s)",
                    scene.name,
                    len(names),
                    len(frames),
                    what,
                    "--poses sfm uses all" if what == "pose" else "--teacher sfm uses all",
                )
                left_out.update(names)
        return left_out

    def _chosen_teacher(self, found: "Found") -> _TeacherName:
        """Return the teacher; for auto, the one that fits the options and what is found."""
        if self.teacher != "auto":
            return self.teacher
        if self.files.files is not None:
            return "files"
        if self.dust3r.checkpoint is not None:
            return "dust3r"
        return "rgbd" if found.depth or not found.images else "sfm"

    def _described(self, found: "Found", decided: "Teacher") -> dict[str, str]:
        """Return what is found in a scene and what is chosen, as rows to print: name and value."""
        teacher: str = decided.teacher
        if self.teacher == "auto":
            checkpoint = self.dust3r.checkpoint is not None
            there_is = "a checkpoint" if checkpoint else "depth" if found.depth else "no depth"
            there_is = "a folder of depth" if self.files.files else there_is
            teacher += f", as there is {there_is}"
        poses = decided.poses.poses
        source = _SOURCES[poses]
        if poses == "auto" and found.poses < found.images:
            source = f"{_SOURCES['sfm']}; where it fails, {_SOURCES['dust3r']}"
        elif poses == "auto" and decided.teacher in ("rgbd", "sfm"):
            source += "; refined if the images disagree with them"
        if found.poses and _SOURCES["sfm"] in source:
            source += "; given poses fix the map frame"
        known = found.cameras if self.poses.intrinsics != "estimate" else 0
        return {
            "found": f"{found.images} training images, {'with' if found.depth else 'without'} "
            f"depth; {found.poses} have poses, {found.cameras} intrinsics",
            "teacher": teacher,
            "poses": source,
            "intrinsics": "given" if known == found.images else f"{known} given, others estimated",
        }

    def decided(self, found: "Found") -> "Teacher":
        """Return the options with a teacher, and a source of poses, that fit what is found.

        Raises:
            MoteError: Options do not fit the teacher that is chosen.
        """
        teacher, poses = self._chosen_teacher(found), self.poses.poses
        if poses == "auto" and teacher == "sfm":
            known = found.poses == found.cameras == found.images
            poses = "auto" if known and self.poses.intrinsics != "estimate" else "sfm"
        elif teacher == "files":
            with_poses = DepthFolder(self._files_folder()).index.poses
            if poses == "files" and not with_poses:
                raise MoteError(
                    f"found --poses files, but the index of {self.files.files} states no poses; "
                    'expected "poses": true and T_map_cam_44 in the files, or --poses sfm'
                )
            if poses == "auto" and found.poses == found.images:
                poses = "given"
            elif poses == "auto":
                poses = "files" if with_poses and not found.poses else "sfm"
        elif poses == "auto" and teacher == "rgbd":
            poses = "auto" if found.poses == found.images else "sfm"
        decided = replace(self, teacher=teacher, poses=replace(self.poses, poses=poses))
        matched = poses == "refine" or teacher == "sfm"
        used = {"--poses", *(_REFINE_FLAGS if matched else ())}
        unused = [flag for flag in _changed_flags(self.poses, "--") if flag not in used]
        if decided.teacher in ("rgbd", "files", "sfm") and poses != "sfm" and unused:
            raise MoteError(
                f"found {', '.join(unused)} with given poses, expected --poses sfm or another "
                "teacher: given poses fix the scale, and measured depth needs given intrinsics"
            )
        return decided

    def _check_frames(self, scene: Scene, found: "Found") -> None:
        """Check that the frames have what the options need.

        Raises:
            SceneError: A frame lacks a pose, intrinsics or depth; the message names it.
        """
        by_pose = self.poses.poses in ("given", "refine")
        for frame in scene.frames("train"):
            if by_pose:
                frame.known_pose()
            if self.poses.intrinsics == "given":
                frame.known_camera()
            if self.teacher in ("rgbd", "simulated") and not found.depth:
                frame.known_depth()

    def _check_packages(self) -> None:
        """Check that the packages that the teacher needs are installed."""
        if self.teacher in ("dust3r", "simulated", "files"):
            with training_packages():
                import torch  # noqa: F401
        by_points = self.teacher == "sfm" or self.poses.poses == "sfm"
        if by_points or (self.poses.poses == "refine" and self.teacher != "rgbd"):
            with structure_from_motion_packages():
                import pycolmap  # noqa: F401

    def _from_known_poses(
        self, scene: Scene, folder: Path, canonical: Camera | None
    ) -> Reconstruction:
        """Reconstruct with poses that are known before the points are."""
        # These imports load scipy, which would delay the help of a command line.
        from distill_training.poses.scene_poses import find_poses, inputs_of
        from distill_training.teachers import rgbd, triangulated

        # Given poses that depth teaches at are stored, and compared when the run resumes.
        by_sfm = self.poses.poses == "sfm" or self.teacher == "sfm"
        settings = inputs_of(scene, self.poses) if by_sfm else {}
        if not by_sfm and self.poses.poses == "refine":
            usual = asdict(SfmConfig())  # not stored, as in older folders
            given = asdict(self.poses.sfm).items()
            settings = {f"sfm_{name}": value for name, value in given if value != usual[name]}
        if by_sfm:
            all_settings = asdict(self.cells) | settings
            if self.teacher == "rgbd":
                all_settings |= asdict(self.rgbd)
            if finished := self._finished(scene, folder, all_settings):
                return finished
        depths_m = (self.rgbd.min_depth_m, self.rgbd.max_depth_m)
        begun = None if by_sfm else begun_reconstruction(folder)
        by_points = self.teacher == "sfm"
        poses = find_poses(scene, self.poses, folder / _WORK, depths_m, begun, by_points)
        if by_points:
            return triangulated.reconstruct(scene, poses, folder, settings, self.cells, canonical)
        return rgbd.reconstruct(scene, poses, folder, self.rgbd, self.cells, settings, canonical)

    def _from_files(self, scene: Scene, folder: Path) -> Reconstruction:
        """Reconstruct from depth that another network wrote."""
        with training_packages():
            from distill_training.poses.scene_poses import find_poses, inputs_of
            from distill_training.teachers.depth_files.from_files import poses_of_files, reconstruct

        depth = DepthFolder(self._files_folder())
        names = depth.available([frame.name for frame in scene.frames("train")])
        settings = inputs_of(scene, self.poses) | depth.settings(names)
        if finished := self._finished(scene, folder, asdict(self.cells) | settings):
            return finished
        by_files = self.poses.poses == "files"
        depths_m = (self.rgbd.min_depth_m, self.rgbd.max_depth_m)  # measured ones check the poses
        if by_files:
            poses = poses_of_files(scene, depth)
        else:
            poses = find_poses(scene, self.poses, folder / _WORK, depths_m)
        return reconstruct(scene, poses, folder, depth, settings, self.cells, by_files)

    def _files_folder(self) -> Path:
        assert self.files.files is not None, "the teacher files is refused without its folder"
        return self.files.files

    def _finished(
        self, scene: Scene, folder: Path, settings: dict[str, float | int | str]
    ) -> Reconstruction | None:
        """Return the finished reconstruction in a folder; None where there is none.

        Raises:
            ReconstructionError: It was made with other frames or settings.
        """
        begun = begun_reconstruction(folder)
        if begun is None:
            return None
        begun.check_inputs(scene.name, self.teacher, self.cells.stride, settings)
        return None if begun.missing() else begun

    def _from_pairs(self, scene: Scene, folder: Path) -> Reconstruction:
        """Reconstruct from predictions of pairs of photographs."""
        with training_packages():
            from distill_training.poses.scene_poses import find_poses, inputs_of, resumed_config
            from distill_training.teachers.dust3r import Dust3r
            from distill_training.teachers.pairwise.pair_predictor import PairPredictor
            from distill_training.teachers.pairwise.photographs import reconstruct, settings_of
            from distill_training.teachers.simulated import Simulated
        predictor: PairPredictor
        if self.teacher == "dust3r" and self.dust3r.checkpoint is not None:
            predictor = Dust3r.open(self.dust3r.checkpoint, self.dust3r.device)
        else:
            predictor = Simulated(self.simulated)
        begun, summary = begun_reconstruction(folder), None
        known = resumed_config(self.poses, begun)
        resumed = begun if known.poses in ("refine", "sfm") else None
        if resumed:  # checked before structure from motion, which takes minutes
            inputs = inputs_of(scene, known)
            settings = settings_of(predictor, self.photographs, self.cells, inputs)
            resumed.check_inputs(scene.name, predictor.name, self.cells.stride, settings)
        if resumed and not resumed.missing():
            reconstruction = resumed
        else:
            poses = find_poses(scene, known, folder / _WORK / "sfm", begun=begun)
            reconstruction, summary = reconstruct(
                scene, poses, folder, predictor, self.photographs, self.cells, known
            )
        described = {"scene": reconstruction.scene}
        if summary is None:
            described["was there already"] = f"{len(reconstruction.poses)} frames"
        else:
            described |= summary.described()
        described["licence of the teacher"] = reconstruction.teacher_licence or "none"
        print_table(described, str(folder), stderr=True)
        return reconstruction


@dataclass(frozen=True)
class Found:
    """What a scene holds for its training frames."""

    images: int
    depth: bool  # of most frames
    poses: int  # number of frames with a pose
    cameras: int  # number of frames with known intrinsics

    @classmethod
    def of(cls, scene: Scene) -> "Found":
        """Return what a scene holds."""
        frames = list(scene.frames("train"))
        return cls(
            len(frames),
            have_depth(frames),
            sum(frame.T_map_cam is not None for frame in frames),
            sum(frame.camera is not None for frame in frames),
        )


@dataclass(frozen=True)
class Plan:
    """A scene, and the options that were chosen for it."""

    scene: Scene
    teacher: Teacher  # with a teacher and a source of poses that fit the scene
    described: dict[str, str]  # what is found and chosen, as rows to print: name and value

    def reconstruct(self, folder: Path, canonical: Camera | None = None) -> Reconstruction:
        """Reconstruct the scene; see `Teacher.reconstruct`. A few damaged frames are left out.

        Intermediate files are deleted, also those of a run that was interrupted at its end.

        Args:
            folder: Folder of the reconstruction.
            canonical: Camera of the result, of the teachers rgbd and sfm; None: that of the frames.
        """
        name, scene = self.teacher.teacher, self.scene
        # Pairs and structure from motion leave out unreadable images where they first read them.
        if name in ("rgbd", "files") or (name == "sfm" and self.teacher.poses.poses != "sfm"):
            scene = without_damaged(scene, folder, name == "rgbd", MAX_LACKING)
        if name in ("dust3r", "simulated"):
            made = self.teacher._from_pairs(scene, folder)
        elif name == "files":
            made = self.teacher._from_files(scene, folder)
        else:
            made = self.teacher._from_known_poses(scene, folder, canonical)
        if (folder / _WORK).exists():
            shutil.rmtree(folder / _WORK)
        return made


def _changed_flags(config: Any, prefix: str) -> Iterator[str]:
    """Yield the flags of a configuration whose values differ from their defaults."""
    for one in fields(config):
        value = getattr(config, one.name)
        if is_dataclass(value):
            yield from _changed_flags(value, f"{prefix}{one.name}.")
        elif value != one.default:
            yield f"{prefix}{one.name}".replace("_", "-")
