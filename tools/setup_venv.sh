#!/usr/bin/env bash
# Sets up .venv in two stages, with both distributions editable:
#   runtime: mote_localization and its libraries; mote-distill without libraries, for `mote-distill room`
#   dev: on top of it the libraries of mote-distill, tests and lint
# A sourced ROS 2 is used as it is. Elsewhere ROS 2 comes from wheels, and tf2_msgs is built against them.
# usage: tools/setup_venv.sh runtime|dev      (PYTHON names the interpreter, python3 by default)
set -euo pipefail
cd "$(dirname "$0")/.."

stage=$1
python=${PYTHON:-python3}
venv=$PWD/.venv
log=$PWD/build/setup.log

stop() { # lines: the problem, then the remedy
  printf 'set-up: %s\n' "$@" >&2
  exit 1
}

step() { # title, command...
  local start=$SECONDS title=$1
  shift
  printf '  %-44s' "$title"
  if ! "$@" >>"$log" 2>&1; then
    printf 'failed\n'
    tail -n 15 "$log" | cut -c -300 >&2
    stop "\"$title\" failed; the end of its output is above, all of it in ${log#"$PWD/"}"
  fi
  printf '%4d s\n' $((SECONDS - start))
}

install() {
  "$venv/bin/python" -m pip install --progress-bar off --disable-pip-version-check "$@"
}

install_locked() {
  # as variables, constraints also hold for the builds of source packages: the first in older pips, the second in newer
  PIP_CONSTRAINT=$constraints PIP_BUILD_CONSTRAINT=$constraints install "$@"
}

install_trainer() { # editable; options for pip
  install_locked --no-build-isolation --editable packaging/mote_distill "$@"
}

link_for_ament() { # an editable install has no data files, and its executables are not where ROS 2 finds them
  local share=$venv/share/mote_localization lib=$venv/lib/mote_localization index=$venv/share/ament_index/resource_index/packages
  mkdir -p "$share"/{config,launch,rviz} "$lib" "$index"
  ln -sfn "$PWD/package.xml" "$share"
  local folder
  for folder in config launch rviz; do # each file: ros2 launch does not search linked folders
    ln -sfn "$PWD/$folder"/*.* "$share/$folder"
  done
  ln -sfn "$venv"/bin/{localizer,mote} "$lib"
  ln -sfn "$PWD/resource/mote_localization" "$index"
}

build_tf2_msgs() {
  local include site
  include=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
  site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')
  # the wheels' CMake files contain the paths of the machine that built them
  grep -rlZ --include='*.cmake' /opt/python/ "$venv/share" | xargs -0r sed -Ei \
    -e "s#/opt/python/[^/]+/include/python3\.[0-9]+#$include#g" \
    -e "s#/opt/python/[^/]+/lib/python3\.[0-9]+/site-packages#$site#g"
  rm -rf build/tf2_msgs
  (
    export AMENT_PREFIX_PATH=$venv CMAKE_PREFIX_PATH=$venv LD_LIBRARY_PATH=$venv/lib PATH=$venv/bin:$PATH
    cmake -S tools/tf2_msgs -B build/tf2_msgs -DCMAKE_INSTALL_PREFIX="$venv" \
      -DPython3_EXECUTABLE="$venv/bin/python" -DBUILD_TESTING=OFF
    cmake --build build/tf2_msgs --parallel "$(nproc)" --target install
  )
}

set_up_tf2_msgs() {
  local missing=()
  "$venv/bin/python" -c 'import tf2_msgs.msg' 2>/dev/null && return
  command -v cc >/dev/null || missing+=(gcc)
  command -v c++ >/dev/null || missing+=(g++)
  "$python" -c 'import os, sysconfig as s; os.stat(s.get_path("include") + "/Python.h")' 2>/dev/null || missing+=(python3-dev)
  if ((${#missing[@]})); then
    printf '  tf2_msgs is not built, so the node runs with TF off. For TF: sudo apt-get install %s; make clean\n' "${missing[*]}"
  else
    step "tf2_msgs, built here" build_tf2_msgs
  fi
}

mkdir -p build
: >"$log"

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null ||
  stop "Python 3.10 or later is needed, and $python is not" "sudo apt-get install python3 python3-venv, or name another: make PYTHON=python3.12"
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
  stop "$python has no venv" "sudo apt-get install python3-venv"

constraints=requirements/constraints.txt
if [ -n "${ROS_DISTRO:-}" ] && "$python" -c 'import rclpy' 2>/dev/null; then
  ros="ROS 2 $ROS_DISTRO as sourced"
  ros_requirements=()
  venv_options=(--system-site-packages)
  # messages of a sourced ROS 2 are compiled against its NumPy
  "$python" -c 'import numpy, sys; sys.exit(numpy.__version__ < "2")' || constraints=requirements/constraints-numpy1.txt
else
  [ "$(uname -sm)" = "Linux x86_64" ] ||
    stop "ROS 2 has wheels for x86_64 Linux only" "install ROS 2 (docs.ros.org), source its setup.bash, and run this again"
  ros="ROS 2 Kilted from wheels"
  ros_requirements=(-r requirements/ros.txt)
  venv_options=()
fi

case $stage in
  runtime)
    version=$("$python" --version)
    echo "Setting up .venv: $version, $ros"
    [ "$version" = "$("$venv/bin/python" --version 2>/dev/null)" ] ||
      step "virtual environment" "$python" -m venv --clear "${venv_options[@]}" "$venv"
    step "setuptools" install_locked setuptools
    step "mote_localization and its libraries" install_locked --no-build-isolation --editable . "${ros_requirements[@]}"
    step "mote-distill, without its libraries" install_trainer --no-deps
    link_for_ament
    ((${#ros_requirements[@]} == 0)) || set_up_tf2_msgs
    ;;
  dev)
    echo "Adding training, tests and lint to .venv"
    step "torch, pytest, ruff, mypy" install_trainer -r requirements/dev.txt
    ;;
  *) stop "usage: tools/setup_venv.sh runtime|dev" ;;
esac
