#!/usr/bin/env bash
# Rewrites the two locks of requirements/ for Python 3.10 and later: constraints.txt, and constraints-numpy1.txt for a
# sourced ROS 2 whose messages are compiled against NumPy 1. Needs uv (pip install uv).
# usage: tools/lock.sh [--upgrade]     keeps the versions locked already unless --upgrade is given
set -euo pipefail
cd "$(dirname "$0")/.."

# the CUDA libraries of PyPI's torch: its CPU build does not need them, so they are not locked
cuda=$(printf '%s\n' cuda-bindings cuda-toolkit nvidia-{cudnn,cusparselt,nccl,nvshmem}-cu13 triton)
projects=(pyproject.toml packaging/mote_distill/pyproject.toml requirements/dev.txt)

lock() { # output, then requirement files and options
  uv pip compile --quiet --universal --python-version 3.10 --strip-extras --no-annotate --no-emit-package mote-localization \
    --excludes <(echo "$cuda") --custom-compile-command tools/lock.sh -o "$@"
}

lock requirements/constraints.txt "${projects[@]}" requirements/ros.txt "$@"
# Python 3.13 has no NumPy 1. Without the marker, that version would decide which libraries all others get.
lock requirements/constraints-numpy1.txt "${projects[@]}" --constraints <(echo 'numpy<2; python_version < "3.13"') "$@"
