#!/usr/bin/env bash
# Everything that disguisor needs, into .venv: idempotent, and silent when there is nothing to do.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$PWD/.venv

# A sourced ROS installation must not leak its Python path into the virtual environment.
unset PYTHONPATH AMENT_PREFIX_PATH CMAKE_PREFIX_PATH LD_LIBRARY_PATH || true

say() { printf '\033[1m==> %s\033[0m\n' "$*" >&2; }
fail() { printf 'set-up: %s\n' "$*" >&2; exit 1; }
digest() { cat "$@" | sha256sum | cut -c1-16; }

wheels=$(digest requirements*.txt constraints.txt tools/setup.sh)
interfaces=$(digest src/disguisor_msgs/{CMakeLists.txt,package.xml,msg/*} src/standins/tf2_msgs/{CMakeLists.txt,package.xml,msg/*} tools/setup.sh)
package=$(digest setup.py setup.cfg)
ready="$wheels $interfaces $package"
[ "$(cat "$venv/.ready" 2>/dev/null)" = "$ready" ] && exit 0

# 1. A Python that the ROS wheels exist for.
python=
for candidate in python3.11 python3.12 python3.13 python3; do
  if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
    python=$candidate; break
  fi
done
[ -n "$python" ] || fail "no Python 3.11, 3.12 or 3.13 on the PATH (ROS 2 wheels exist for these); install one, for example: apt-get install python3.11 python3.11-venv python3.11-dev"

# 2. System packages: what Open3D loads, and what compiles the messages.
missing=()
for pair in libusb-1.0.so.0:libusb-1.0-0 libGL.so.1:libgl1 libgomp.so.1:libgomp1 libEGL.so.1:libegl1; do
  ldconfig -p | grep -q "${pair%%:*}" || missing+=("${pair##*:}")
done
command -v cmake >/dev/null || missing+=(cmake)
command -v make >/dev/null || missing+=(make)
command -v g++ >/dev/null || missing+=(g++)
version=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
"$python" -c 'import ensurepip' 2>/dev/null || missing+=("$version-venv")
"$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' || missing+=("$version-dev")
if [ ${#missing[@]} -gt 0 ]; then
  if [ "$(id -u)" = 0 ]; then
    say "installing system packages: ${missing[*]}"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}"; } >/dev/null ||
      fail "apt-get could not install ${missing[*]}"
  else
    fail "system packages are missing; run: sudo apt-get install -y ${missing[*]}"
  fi
fi

# 3. The virtual environment and its wheels.
if [ "$(cut -d' ' -f1 "$venv/.ready" 2>/dev/null)" != "$wheels" ]; then
  rm -f "$venv/.ready"
  [ -x "$venv/bin/python" ] || { say "creating .venv with $python"; "$python" -m venv "$venv"; }
  pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }
  pip install -q pip==25.3
  say "installing wheels (about 1 GB, a few minutes)"
  pip install -q -c constraints.txt -r requirements.txt -r requirements-ros.txt \
    -r requirements-pose2d.txt -r requirements-dev.txt
  # An sdist that names the GPU build of Open3D among its dependencies: only the package itself.
  say "compiling probreg (about 3 minutes)"
  pip install -q --no-deps --no-build-isolation probreg==0.3.8
  # What the evaluation compares with; some name the display build of OpenCV.
  pip install -q --no-deps -r requirements-eval.txt
fi

# 4. The messages. The wheels' CMake exports carry the paths of the machine that they were built on.
say "building messages with colcon"
include=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
numpy_include=$("$venv/bin/python" -c 'import numpy; print(numpy.get_include())')
{ grep -rlE /opt/python/ "$venv/share" --include='*.cmake' || true; } | xargs -r sed -i -E \
  "s#/opt/python/[^;\" ]*/numpy/_core/include#$numpy_include#g; s#/opt/python/[^;\" ]*/include/python[0-9.]+#$include#g"
log=build/setup.log; mkdir -p build
AMENT_PREFIX_PATH=$venv CMAKE_PREFIX_PATH=$venv LD_LIBRARY_PATH=$venv/lib PATH=$venv/bin:$PATH COLCON_DEFAULTS_FILE=/dev/null \
  colcon --log-base build/log build --base-paths src/disguisor_msgs src/standins/tf2_msgs \
  --build-base build --install-base "$venv" --merge-install \
  --cmake-args -DPython3_EXECUTABLE="$venv/bin/python" -DBUILD_TESTING=OFF >"$log" 2>&1 ||
  { tail -30 "$log" >&2; fail "the messages did not build; the whole log is in $log"; }

# 5. The package itself, editable, and the body model's cache.
"$venv/bin/python" -m pip --disable-pip-version-check install -q --no-deps --no-build-isolation -e .
say "building the body model's cache (a minute or two)"
ANNY_CACHE_DIR=${ANNY_CACHE_DIR:-$PWD/.cache/anny} "$venv/bin/python" -c \
  "from disguisor_ros.core import body_models, distance_field, head_template
body_models.load_anny()
distance_field.DistanceField(head_template.HeadTemplate.load())"

echo "$ready" >"$venv/.ready"
say "ready"
