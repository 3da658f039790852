# make demo: simulate a room, anonymize it, look at it.   make test: all tests.
export ANNY_CACHE_DIR ?= $(CURDIR)/.cache/anny
venv := env -u PYTHONPATH -u AMENT_PREFIX_PATH -u LD_LIBRARY_PATH .venv/bin

.PHONY: demo test setup scoreboard pose-model clean

demo: setup
	$(venv)/disguisor demo --out demo

test: setup
	$(venv)/ruff check .
	$(venv)/python -m pytest test

scoreboard: setup
	$(venv)/disguisor scoreboard --out scoreboard

pose-model: setup
	$(venv)/python -m disguisor_ros.pose_models

setup:
	@tools/setup.sh

clean:
	rm -rf .venv build install log demo scoreboard .cache
