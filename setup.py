"""The ament_python package: the runtime of the robot and the offline trainer beside it."""

from glob import glob

from setuptools import find_packages, setup

NAME = "mote_localization"

setup(
    name=NAME,
    version="0.1.0",
    description="A camera finds itself: place-specific networks distilled to a few megabytes",
    license="Apache-2.0",
    maintainer="Mote maintainers",
    maintainer_email="maintainers@example.org",
    packages=find_packages(include=[f"{NAME}*", "distill_training*", "demo_room*"]),
    python_requires=">=3.10",
    # the third-party libraries are in requirements/ (pip) and package.xml (rosdep)
    install_requires=["setuptools"],
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        *((f"share/{NAME}/{kind}", glob(f"{kind}/*.*")) for kind in ("config", "launch", "rviz")),
    ],
    entry_points={
        "console_scripts": [
            f"localizer = {NAME}.nodes.localizer_main:main",
            f"mote = {NAME}.cli:main",
            "mote-distill = distill_training.cli:main",
        ],
    },
    zip_safe=True,
)
