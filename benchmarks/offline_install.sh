#!/usr/bin/env bash
# Join the pieces, check the sum, install the wheels beside the server's own packages, write env.sh. Run it again at will.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
home=${SEGPIPE_OFFLINE:-$HOME/segpipe-offline}
python=${PYTHON:-python3}
if [ ! -f "$home/done" ]; then
  mkdir -p "$home/in" "$home/site" "$home/data"
  cat "$here"/piece.[0-9][0-9][0-9] > "$home/stream.tar"
  (cd "$home" && sha256sum --quiet -c "$here/SHA256SUM")
  tar xf "$home/stream.tar" -C "$home/in"
  rm "$home/stream.tar"
  "$python" -m pip install -q --no-index --no-deps --no-compile --upgrade --target "$home/site" "$home"/in/*.whl
  find "$home/in" -mindepth 1 -maxdepth 1 -type d -exec mv -t "$home/data" {} +
  libraries=$(PYTHONPATH="$home/site${PYTHONPATH:+:$PYTHONPATH}" "$python" - <<'P'
import glob
import importlib.util

spec = importlib.util.find_spec("nvidia")  # TensorRT and ONNX Runtime look for CUDA's libraries beside themselves
print(":".join(folder for root in (spec.submodule_search_locations if spec else ()) for folder in sorted(glob.glob(f"{root}/*/lib"))))
P
)
  cat > "$home/env.sh" <<V
export PYTHONPATH="$home/site\${PYTHONPATH:+:\$PYTHONPATH}" SEGPIPE_DATA="$home/data"
export LD_LIBRARY_PATH="$libraries\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}"
V
  touch "$home/done"
fi
echo "$home/env.sh"
