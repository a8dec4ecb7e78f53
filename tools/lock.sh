#!/usr/bin/env bash
# Rewrites the two locks of requirements/ for Python 3.10 and later: constraints.txt, and constraints-numpy1.txt for a
# sourced ROS 2 whose messages are compiled against NumPy 1. Needs uv (pip install uv).
set -euo pipefail
cd "$(dirname "$0")/../requirements"

# the CUDA half of PyPI's torch: the CPU build does without, so it is left to torch itself
cuda=$(printf '%s\n' cuda-bindings cuda-toolkit nvidia-{cudnn,cusparselt,nccl,nvshmem}-cu13 triton)

lock() { # output, then requirement files
  uv pip compile --quiet --universal --python-version 3.10 --strip-extras --no-annotate --upgrade \
    --excludes <(echo "$cuda") --custom-compile-command tools/lock.sh -o "$@"
}

lock constraints.txt runtime.txt ros.txt train.txt dev.txt
# Python 3.13 has no NumPy 1: without the marker, libraries of all versions would be held back to please it
lock constraints-numpy1.txt runtime.txt train.txt dev.txt --constraints <(echo 'numpy<2; python_version < "3.13"')
