"""The report in headless Chromium: its console, its pictures, and no sideways scrolling on a phone or a desk."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from segpipe.rundir.directory import RunDirectory
from stages.report import write_comparison, write_report
from tests.children import PATIENCE_S

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium")
PROBE = """<iframe id="f" src="{page}" style="width:{width}px;height:900px;border:0"></iframe>
<script>document.getElementById("f").onload = function () {{
  const inside = this.contentDocument, images = [...inside.images], drawings = [...inside.querySelectorAll("svg")];
  const found = {{
    width: this.contentWindow.innerWidth, needed: inside.documentElement.scrollWidth, images: images.length,
    broken: images.filter(i => !i.complete || i.naturalWidth === 0).length, drawings: drawings.length,
    flat: drawings.filter(d => d.getBoundingClientRect().height < 40).length,
    dark: this.contentWindow.matchMedia("(prefers-color-scheme: dark)").matches,
  }};
  document.title = "done"; const out = document.createElement("pre"); out.id = "found";
  out.textContent = JSON.stringify(found); document.body.append(out);
}};</script>"""


@pytest.fixture(scope="module")
def pages(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run's report and a comparison."""
    folder = tmp_path_factory.mktemp("pages")
    run = RunDirectory(finished_run)
    return {
        "run": write_report(run, folder / "run.html"),
        "comparison": write_comparison([run, run], folder / "comparison.html"),
    }


def look(page: Path, width: int, folder: Path) -> tuple[dict[str, int], str]:
    """What the browser laid out at this width, and what its console said."""
    probe = folder / "probe.html"
    probe.write_text(PROBE.format(page=page.as_uri(), width=width))
    assert CHROMIUM is not None
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu",
        "--disable-background-networking",
        "--enable-logging=stderr",
        "--allow-file-access-from-files", f"--user-data-dir={folder / 'profile'}", "--window-size=1600,1000",
        "--virtual-time-budget=4000", "--dump-dom", probe.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE_S)
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout)
    assert found, done.stderr
    return json.loads(found[1]), "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


@pytest.mark.parametrize("width", [375, 1440])
@pytest.mark.parametrize("name", ["run", "comparison"])
def test_the_page_fits_shows_its_pictures_and_logs_nothing(
    pages: dict[str, Path], name: str, width: int, tmp_path: Path
) -> None:
    found, console = look(pages[name], width, tmp_path)

    assert console == ""
    assert found["width"] == width
    assert found["needed"] <= width
    assert found["broken"] == found["flat"] == 0
    assert found["drawings"] >= 2
    assert found["images"] >= (1 if name == "run" else 0)


def test_the_probe_sees_what_is_wrong(tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text(
        '<!doctype html><img src="gone.png"><div style="width:600px">x</div><script>console.error("bad")</script>'
    )
    found, console = look(page, 375, tmp_path)

    assert found["needed"] > 375
    assert found["broken"] == 1
    assert "bad" in console
