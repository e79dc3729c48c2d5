"""Packs what an offline GPU server lacks: pinned wheels, segpipe's own, and data, in pieces of a chosen size.

    python -m benchmarks.offline_bundle --out bundle --python 3.12 --have freeze.txt --data camvid

`freeze.txt` is `pip freeze` of that server: what it already has in a usable version is left out. Carry the folder (or
its pieces one by one) there and run `bash bundle/install.sh`; it checks every sum, installs beside the server's own
packages without touching them, and writes env.sh.
"""

import argparse
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (39, 35, 34, 31, 28, 27, 24, 17, 12, 5)]
PLATFORMS += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"]
LEFT_TO_THE_SERVER = re.compile(r"nvidia-.*|cuda-toolkit|torch|torchvision|triton")
"""Gigabytes that belong to the server's own PyTorch."""


def wanted(constraints: str, have: str) -> list[str]:
    """Pinned requirements that the server does not have at all, in the order of constraints.txt."""
    present = {_name(line) for line in have.splitlines() if "==" in line or "@" in line}
    pins = [line.strip() for line in constraints.splitlines() if "==" in line and not line.startswith("#")]
    return [
        pin
        for pin in pins
        if _name(pin) not in present
        and not LEFT_TO_THE_SERVER.fullmatch(_name(pin))
        and not (_name(pin) == "onnxruntime" and any(_name(other) == "onnxruntime-gpu" for other in pins))
    ]


def download(requirements: Sequence[str], python: str, folder: Path) -> list[str]:
    """Fetch wheels for Linux x86-64, or make them from pure Python sources; returns the requirements with neither."""
    platforms = [argument for platform in PLATFORMS for argument in ("--platform", platform)]
    refused = []
    for requirement in requirements:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        command += ["--python-version", python, "--implementation", "cp", *platforms, "-d", str(folder), requirement]
        failed = subprocess.run(command, check=False, capture_output=True).returncode != 0
        if failed and not build_pure_wheel(requirement, folder):
            refused.append(requirement)
    return refused


def build_pure_wheel(requirement: str, folder: Path) -> bool:
    """A source archive's wheel, where it fits every machine: TensorRT's own module comes this way."""
    made = folder / "made"
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(made), requirement]
    built = subprocess.run(command, check=False, capture_output=True).returncode == 0
    wheels = list(made.glob("*.whl"))
    fits = built and all(wheel.name.endswith("-none-any.whl") for wheel in wheels)
    for wheel in wheels if fits else ():
        wheel.rename(folder / wheel.name)
    shutil.rmtree(made, ignore_errors=True)
    return fits


def build_own_wheel(folder: Path) -> None:
    """segpipe itself, from this checkout; with compiled kernels only where they fit the server's processor."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(folder), str(ROOT)]
    without = {} if platform.machine() == "x86_64" else {"CC": "false"}
    subprocess.run(command, check=True, env={**os.environ, **without})


def write_pieces(files: Iterable[Path], out: Path, piece_bytes: int) -> int:
    """One tar of everything, cut into numbered pieces, with the sum of the whole; returns the number of pieces."""
    out.mkdir(parents=True, exist_ok=True)
    stream = out / "stream.tar"
    with tarfile.open(stream, "w") as tar:
        for file in files:
            tar.add(file, arcname=file.name)
    digest, count = hashlib.sha256(), 0
    with stream.open("rb") as whole:
        while piece := whole.read(piece_bytes):
            digest.update(piece)
            (out / f"piece.{count:03d}").write_bytes(piece)
            count += 1
    stream.unlink()
    (out / "SHA256SUM").write_text(f"{digest.hexdigest()}  stream.tar\n")
    shutil.copy(Path(__file__).with_name("offline_install.sh"), out / "install.sh")
    return count


def main() -> None:
    """Pack into a folder and say what to do with it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bundle"), help="folder to write")
    parser.add_argument("--python", default="3.12", help="Python version of the server")
    parser.add_argument("--have", type=Path, help="`pip freeze` of the server; without it everything but PyTorch goes")
    parser.add_argument("--data", type=Path, action="append", default=[], help="folder to take along")
    parser.add_argument("--piece-mb", type=int, default=1000, help="largest piece in MiB")
    arguments = parser.parse_args()
    wheels = arguments.out / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    have = arguments.have.read_text() if arguments.have else ""
    requirements = wanted((ROOT / "constraints.txt").read_text(), have)
    refused = download(requirements, arguments.python, wheels)
    build_own_wheel(wheels)
    files = [*sorted(wheels.glob("*.whl")), *(folder.resolve() for folder in arguments.data)]
    count = write_pieces(files, arguments.out, arguments.piece_mb * 2**20)
    shutil.rmtree(wheels)
    if refused:
        print(f"no wheel for: {', '.join(refused)}; install these there by other means", file=sys.stderr)
    print(f"{arguments.out}: {count} pieces. There: bash {arguments.out.name}/install.sh && . ~/segpipe-offline/env.sh")


def _name(requirement: str) -> str:
    return re.split("==|@", requirement, maxsplit=1)[0].strip().lower().replace("_", "-").replace(".", "-")


if __name__ == "__main__":
    main()
