"""Train your own network: `python examples/custom_student.py RECONSTRUCTION MAP.onnx STEPS`."""

import sys
from pathlib import Path

from torch import nn

from distill_training.export.onnx_export import write_student
from distill_training.pipeline import train_student
from distill_training.reconstruction import open_reconstruction
from distill_training.students import FAMILIES, Student
from distill_training.students.head import CoordinateHead, ImageInput
from distill_training.students.layers import conv
from distill_training.students.student import StudentConfig
from distill_training.training.train_config import TrainConfig


class Plain(Student):
    """Three convolutions of stride 2, for cells of 8 px."""

    def __init__(self, normalization, cells, config):
        super().__init__()
        self.input = ImageInput()
        self.features = nn.Sequential(conv(3, 32, stride=2), conv(32, 64, stride=2))
        self.cells = conv(64, 64, stride=2)
        self.head = CoordinateHead(64, normalization)

    def forward(self, image_bhw3):
        """Return points_bhw3 (m, map frame) and sigma_bhw (m) of image_bhw3 uint8."""
        return self.head(self.cells(self.features(self.input(image_bhw3))))


if __name__ == "__main__":
    FAMILIES["plain"] = (Plain, StudentConfig)  # derive from StudentConfig to add settings
    made, output = open_reconstruction(sys.argv[1]), Path(sys.argv[2])
    config, work = TrainConfig(steps=int(sys.argv[3])), output.with_suffix(".training")
    student = train_student(made, work, "plain", {}, config)
    print(write_student(student.network, student.info, made, output, int8=False))
