"""Makes a small run, its page and a server, lets a browser use both, and compares: `make web`."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from segpipe import Segmenter
from segpipe.rundir.directory import RunDirectory
from segpipe.web.page import write_page
from segpipe.web.runtime import PACKAGE, VERSION
from stages.config.file import load_config
from stages.data import open_split
from stages.pipeline import Selection, run_stages
from tests.serving import TOKEN, serving, token_file
from tests.tiny import write_toml
from tests.trained import TOML
from tests.web import pages

OUT = Path("build/web")
LOOK = str(Path(__file__).with_name("look.py"))
AXE = "axe-core@4.14.1"
SIZES = ((48, 80), (240, 400), (75, 41), (333, 517))
"""Smaller than the network, larger, odd, and upright."""
LARGE = (1500, 2400)
MOST_BLOCKED_MS = 50
MOST_BY_GPU = 20
"""Pixels of a mask that a GPU, whose sums round otherwise, may decide otherwise."""
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def main(browser_python: str) -> int:
    """0 where nothing differs and nothing is wrong; the findings are in build/web/found.json."""
    if CHROMIUM is None:
        sys.exit("make web needs a browser: apt-get install chromium")
    run = _run(OUT / "run")
    page = write_page(RunDirectory(run), OUT / "page.html", npm(f"{PACKAGE}@{VERSION}"))
    pictures = _pictures(run)
    with serving(run, "--backend", "onnxruntime-cpu", "--token-file", token_file(OUT)) as server:
        wanted = {
            "chromium": CHROMIUM, "out": str(OUT), "token": TOKEN, "axe": str(_axe()), "video": str(_video(pictures)),
            "large": str(_large(pictures[1])),
            "pages": {"file": page.resolve().as_uri(), "served": f"http://{server.host}:{server.port}/"},
            "pictures": [str(path.resolve()) for path in pictures],
        }  # fmt: skip
        command = [browser_python, LOOK]
        done = subprocess.run(command, input=json.dumps(wanted), capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    found = json.loads(done.stdout)
    gpu = found.pop("gpu")
    for name, seen in found.items():
        seen["pixels_differ"] = [_differing(OUT / name / mask, run) for mask in seen["masks"]]
    gpu["pixels_differ"] = [_differing(OUT / "gpu" / mask, run) for mask in gpu.get("masks", ())]
    (OUT / "found.json").write_text(json.dumps(found | {"gpu": gpu}, indent=2) + "\n")
    wrong = [line for name, seen in found.items() for line in problems(name, seen)] + gpu_problems(gpu)
    wrong += pages.problems(run, OUT / "pages", browser_python, CHROMIUM, _axe())
    print("\n".join(wrong or [*(_summary(name, seen) for name, seen in found.items()), _gpu_summary(gpu)]))
    return bool(wrong)


def problems(name: str, seen: dict[str, Any]) -> list[str]:
    """What must not be, in words."""
    errors = [line for line in seen["console"] if line.startswith("error") and "401" not in line]
    foreign = [line for line in seen["requests"] if not line.startswith(("GET file:", "GET blob:"))]
    # Where others take the processor all takes longer; a network on the page's own thread would block it all its time.
    is_blocked = name == "file" and seen["blocked_ms"] > max(MOST_BLOCKED_MS, seen["large_ms"] / 2)
    checks = {
        f"nobody could use the page for {seen['blocked_ms']:.0f} ms of {seen['large_ms']:.0f}": is_blocked,
        f"masks differ from the segmenter's: {seen['pixels_differ']} pixels": any(seen["pixels_differ"]),
        f"axe-core: {seen['axe']}": seen["axe"],
        f"wider than the window: {seen['too_wide']}": seen["too_wide"],
        f"errors on the console: {errors}": errors,
        f"the page asked for {foreign}": name == "file" and foreign,
        f"a broken file was answered: {seen['bad']}": "is no image" not in seen["bad"],
        f"the keyboard read: {seen['pixel']}": not seen["pixel"].startswith("Row "),
        f"the legend was not pressed: {seen['pressed']}": seen["pressed"] != "true",
    }
    return [f"{name}: {what}" for what, wrong in checks.items() if wrong]


def gpu_problems(gpu: dict[str, Any]) -> list[str]:
    """A GPU rounds otherwise; nothing where there was none."""
    if "why_not" in gpu:
        return []
    differ = max(gpu["pixels_differ"]) > MOST_BY_GPU
    found = {f"gpu: masks differ from the segmenter's: {gpu['pixels_differ']} pixels": differ}
    found[f"gpu: a page whose GPU does not run stayed with {gpu['fell_back_to']}"] = gpu["fell_back_to"] != "wasm"
    return [what for what, wrong in found.items() if wrong]


def npm(package: str) -> Path:
    """What `npm pack` leaves, fetched once."""
    folder = OUT / "npm"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{package.replace('@', '-')}.tgz"
    if not path.is_file():
        subprocess.run(["npm", "pack", "--silent", package], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return path


def _axe() -> Path:
    shutil.unpack_archive(npm(AXE), OUT / "npm" / "axe", "gztar", filter="data")
    return OUT / "npm" / "axe" / "package" / "axe.min.js"


def _run(path: Path) -> Path:
    """Trained on made-up shapes, exported with the graph, validated; what is fresh is not made again."""
    write_toml(path, TOML.replace("[export]", '[export]\nend_to_end = "confidence"'))
    run_stages(path, load_config(path), path, Selection(last="validate"))
    return path


def _pictures(run: Path) -> list[Path]:
    split, folder = open_split(load_config(run), run, "val"), OUT / "pictures"
    folder.mkdir(exist_ok=True)
    paths = []
    for number, (height, width) in enumerate(SIZES):
        frame = cv2.resize(split.sample(number)[0], (width, height), interpolation=cv2.INTER_CUBIC)
        paths.append(folder / f"shapes-{number}.png")
        cv2.imwrite(str(paths[-1]), frame[:, :, ::-1])
    return paths


def _large(picture: Path) -> Path:
    """One that the network takes long for."""
    path, frame = (OUT / "large.png").resolve(), cv2.imread(str(picture))
    assert frame is not None
    cv2.imwrite(str(path), cv2.resize(frame, LARGE[::-1]))
    return path


def _video(pictures: list[Path]) -> Path:
    path, frame = (OUT / "clip.webm").resolve(), cv2.imread(str(pictures[1]))
    assert frame is not None
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"VP80"), 5, (frame.shape[1], frame.shape[0]))
    for _ in range(10):
        writer.write(frame)
    writer.release()
    return path


def _differing(mask: Path, run: Path) -> int:
    picture = OUT / "pictures" / mask.name.replace(".mask", "")
    found = cv2.imread(str(mask), cv2.IMREAD_UNCHANGED)
    with Segmenter.open(run, "onnxruntime-cpu") as segmenter:
        return int(np.count_nonzero(segmenter(picture) != found))


def _summary(name: str, seen: dict[str, Any]) -> str:
    same = f"{len(seen['masks'])} masks as the segmenter's, axe-core finds nothing"
    times = f"ready after {seen['ready_s']} s, blocked for at most {seen['blocked_ms']:.0f} ms"
    return f"{name}: {same}, {times}; {seen['status'][-1]}"


def _gpu_summary(gpu: dict[str, Any]) -> str:
    if "why_not" in gpu:
        return f"gpu: left out: {gpu['why_not']}"
    return f"gpu: {gpu['pixels_differ']} pixels differ from the segmenter's; {gpu['status'][-1]}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
