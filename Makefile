# `make` lists what there is.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# a venv for a sourced ROS 2 differs from one with wheels: each has its own stamps
ROS := $(or $(ROS_DISTRO),wheels)
RUNTIME := $(VENV)/runtime-$(ROS).stamp
DEV := $(VENV)/dev-$(ROS).stamp

# an active venv with ROS wheels sets these; the wheels here would then load that venv's libraries
ifdef _ROS_WHEELS_BOOTSTRAP_COMPLETE
unexport _ROS_WHEELS_BOOTSTRAP_COMPLETE LD_LIBRARY_PATH
endif

.PHONY: help setup demo test test-install format bench demo-photographs demo-map demo-building clean
.DELETE_ON_ERROR:

help:
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 18

setup: $(RUNTIME)  ## set up .venv with the runtime, on top of ROS 2 where it is sourced

demo: $(RUNTIME) build/demo/drive/metadata.yaml  ## localize a recorded drive through a demo room over ROS 2; writes report.html
	$(BIN)/mote evaluate build/demo/drive --map maps/demo_room.onnx --ros --report report.html

test: $(DEV)  ## lint, types, imports, unit and ROS tests (22 minutes on two cores)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/python -m pytest

test-install: $(DEV)  ## build the wheels and run the documented pip commands in an empty environment
	$(BIN)/python -m pytest -m install tests/test_installation.py

format: $(DEV)  ## format the code and apply the fixes of lint
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

# BASELINE is a script that localizes the scene's test frames, see benchmarks/bench_students.py
SCENE ?= build/demo/drive
MAPS ?= maps/demo_room.onnx
ifdef YARDSTICK
$(error found YARDSTICK, which is now BASELINE: same meaning, same values)
endif
bench: $(DEV) | $(filter build/demo/drive/metadata.yaml,$(SCENE)/metadata.yaml)  ## measure maps, backends and a baseline: SCENE=, MAPS=, BASELINE=; writes docs/results/benchmarks.md
	$(BIN)/python benchmarks/bench_students.py $(SCENE) --maps $(MAPS) $(if $(BASELINE),--baseline $(BASELINE)) \
		$(if $(BACKENDS),--backends $(BACKENDS)) --write docs/results/benchmarks.md

demo-photographs: $(DEV)  ## make a map of the demo room from rendered photographs alone, and evaluate it (half an hour)
	rm -rf build/demo/photographs build/demo/photographs.training
	$(BIN)/mote-distill room --scene build/demo/photographs --drives 2 --photographs
	$(BIN)/mote-distill map build/demo/photographs -o build/demo/photographs.onnx \
		--anchor build/demo/photographs/anchors.yaml --minutes 15
	$(BIN)/mote evaluate build/demo/photographs --map build/demo/photographs.onnx --report build/demo/photographs.html

demo-map: $(DEV)  ## train the map of the demo room again: maps/demo_room.onnx (ten minutes; the one here was trained on a GPU)
	rm -rf build/demo/room build/demo/training
	$(BIN)/mote-distill room --scene build/demo/room
	$(BIN)/mote-distill map build/demo/room -o maps/demo_room.onnx --work build/demo/training

demo-building: $(DEV)  ## render a building of twelve rooms, of which four are identical: build/demo/building (a quarter of an hour)
	rm -rf build/demo/building
	$(BIN)/mote-distill building --scene build/demo/building

clean:  ## remove .venv and everything built
	rm -rf $(VENV) build dist report.html *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	rm -rf packaging/*/build packaging/*/*.egg-info
	rm -rf ros2_ws/build ros2_ws/install ros2_ws/log

build/demo/drive/metadata.yaml: $(wildcard demo_room/*.py) | $(RUNTIME)
	rm -rf $(@D)
	$(BIN)/mote-distill room --bag $(@D)

# without pyproject.toml: a new dependency changes the locks too, and its other changes need no set-up
$(RUNTIME): setup.py $(wildcard packaging/*/pyproject.toml requirements/constraints*.txt) requirements/ros.txt tools/setup_venv.sh
	@test -e $@ || rm -rf $(VENV)
	@PYTHON=$(PYTHON) tools/setup_venv.sh runtime
	@touch $@

$(DEV): $(RUNTIME) requirements/dev.txt
	@PYTHON=$(PYTHON) tools/setup_venv.sh dev
	@touch $@
