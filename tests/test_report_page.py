"""The report: what it shows of a run, what it does with less, that it stands alone, how runs are compared."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from typer.testing import CliRunner

from segpipe import testing
from segpipe.artifacts import held_by
from segpipe.cli import app
from segpipe.rundir.directory import RunDirectory
from segpipe.rundir.manifest import StageRecord
from stages.pages.svg import new_axes, to_svg
from stages.pipeline import Selection, run_stages
from stages.report import write_comparison, write_report
from stages.report.figures import lineage
from stages.report.reading import differences, read_facts
from stages.results.gate import read_report as read_gate
from stages.validate.pages.page import html
from tests.children import ROOT
from tests.gpu_here import has_gpu
from tests.tiny import tiny_config

LARGEST_BYTES = 5_000_000


@pytest.fixture(scope="module")
def page(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The finished run's report."""
    return write_report(RunDirectory(finished_run), tmp_path_factory.mktemp("page") / "report.html").read_text()


def test_the_page_needs_nothing_else(page: str) -> None:
    assert "http" not in re.sub(r"base64,[\w+/=]+", "", page)  # where chance spells it
    assert not re.search(r"<script|@import|url\((?!#)", page)
    assert all(source.startswith("data:") for source in re.findall(r'(?:src|<link[^>]*href)="([^"]*)"', page))
    assert len(page.encode()) < LARGEST_BYTES


def test_the_page_tells_of_every_stage(page: str) -> None:
    for heading in ("What was made from what", "Accuracy", "Release gate", "Precision", "Speed", "hashes"):
        assert heading in page
    for picture in ("What was made from what: train from", "Training over 3 epochs", "Latency of every",
                    "Median time over ours", "Frames a second"):  # fmt: skip
        assert f'aria-label="{picture}' in page
    assert 'aria-label="Where a frame&#x27;s time goes' in page or "No budget: the steps took" in page
    for pictures in ("Worst images by IoU", "Best images by IoU", "What training saw", "the masks that were measured"):
        assert pictures in page
    assert re.search(r'alt="label \(grey: ignored\): shapes-test-\d+: IoU 0\.\d+"', page)


@pytest.mark.parametrize("name", ["manifest.json", "segpipe.toml", "config.json", ".lock", "notes.txt"])
def test_a_page_replaces_pages_only(name: str, tmp_path: Path) -> None:
    run = testing.make_run(tmp_path / "run")
    (run / "notes.txt").write_text("mine")
    (run / "page.html").write_text("<!DOCTYPE html><p>old")
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}

    for runs in ([run], [run, run]):
        refused = CliRunner().invoke(app, ["report", *map(str, runs), "-o", str(run / name)])
        assert (refused.exit_code, refused.stderr.count("\n")) == (1, 1)
        assert "name another file for the page" in refused.stderr
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before
    write_report(RunDirectory(run), run / "page.html")
    assert "old" not in (run / "page.html").read_text()[:100]


def test_no_two_elements_share_an_id(page: str) -> None:
    ids = re.findall(r'\bid="([^"]+)"', page)

    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:url\(|href=")#([^")]+)', page)) <= set(ids)


def test_pictures_take_the_pages_colours() -> None:
    figure, axes = new_axes(1)
    axes.plot([0, 1], [0, 1])
    svg = to_svg(figure, 'a "quoted" <picture>')

    assert 'aria-label="a &quot;quoted&quot; &lt;picture&gt;"' in svg
    assert "var(--grid)" in svg
    assert "xmlns" not in svg
    assert "#0101" not in svg


def test_a_run_with_nothing_done_has_a_report_too(empty_run: RunDirectory) -> None:
    text = write_report(empty_run).read_text()

    assert "not validated" in text
    assert "Speed" not in text
    assert "Nothing yet: <code>segpipe run" in text


@pytest.mark.parametrize("stage", ["train", "build", "validate", "benchmark"])
def test_a_missing_stage_is_left_out(run_copy: Path, stage: str) -> None:
    manifest = json.loads((run_copy / "manifest.json").read_text())
    del manifest["stages"][stage]
    (run_copy / "manifest.json").write_text(json.dumps(manifest))
    text = write_report(RunDirectory(run_copy)).read_text()

    assert f'<th scope="row">{stage}</th>' not in text


def test_a_failed_gate_is_loud_and_opens_its_limits(run_copy: Path, page: str) -> None:
    path = RunDirectory(run_copy).artifact("validate", "report.json")
    content = json.loads(path.read_text())
    content["hops"]["onnx"]["status"] = "failed"
    content["hops"]["onnx"]["checks"][0] |= {"status": "failed", "value": None}
    replace_output(run_copy, "validate", path, json.dumps(content).encode())
    text = write_report(RunDirectory(run_copy)).read_text()

    assert '<strong class="failed">failed</strong>' in text
    assert "<details open><summary>All limits" in text
    assert "<details><summary>All limits" in page


def test_a_benchmark_cut_short_before_its_first_round_has_a_page(run_copy: Path) -> None:
    path = RunDirectory(run_copy).artifact("benchmark", "report.json")
    content = json.loads(path.read_text())
    nothing: dict[str, Any] = {
        "batches": [],
        "callers": [],
        "ratios": [],
        "budget": None,
        "memory": None,
        "floor": None,
    }
    for entry in content["contestants"]:
        entry |= {"latency": None, "reason": "no whole round"}
    replace_output(run_copy, "benchmark", path, json.dumps(content | nothing | {"partial": True}).encode())
    text = write_report(RunDirectory(run_copy)).read_text()

    assert "segpipe onnxruntime-cpu was not measured: no whole round" in text
    assert "<h3>Latency</h3>" not in text


def test_a_benchmark_of_an_older_form_is_named_not_guessed_at(run_copy: Path) -> None:
    path = RunDirectory(run_copy).artifact("benchmark", "report.json")
    replace_output(run_copy, "benchmark", path, b'{"latency": {"ours": {"p50_ms": 1.0}}}')

    assert "the benchmark was written by another version" in write_report(RunDirectory(run_copy)).read_text()


def test_an_unvalidated_benchmark_is_loud_in_the_report(run_copy: Path) -> None:
    path = RunDirectory(run_copy).artifact("benchmark", "report.json")
    content = json.loads(path.read_text())
    for entry in content["contestants"]:
        entry["validated"] = False if entry["ours"] else None
    replace_output(run_copy, "benchmark", path, json.dumps({**content, "partial": True}).encode())
    text = write_report(RunDirectory(run_copy)).read_text()

    assert "<strong>Not validated.</strong>" in text
    assert "<strong>Partial.</strong>" in text


def test_parts_kept_in_fp32_are_named(run_copy: Path) -> None:
    config = tiny_config(run_copy, 'export.fp32_islands=["head"]')
    run = run_stages(run_copy, config, run_copy, Selection("export", "export"))
    result = CliRunner().invoke(app, ["report", str(run_copy)])

    assert run.record("export").figures["fp32_islands"] > 0
    assert result.exit_code == 0, result.stderr
    assert "Kept in FP32 on purpose: head." in Path(result.stdout.strip()).read_text()


def test_names_cannot_inject_markup(run_copy: Path) -> None:
    manifest = json.loads((run_copy / "manifest.json").read_text())
    classes = manifest["stages"]["train"]["figures"]["test_classes"]
    manifest["stages"]["train"]["figures"]["test_classes"] = {"<b onclick=x>": next(iter(classes.values()))}
    (run_copy / "manifest.json").write_text(json.dumps(manifest))

    assert "<b onclick" not in write_report(RunDirectory(run_copy)).read_text()


def matrix_page(run: Path, classes: list[str], counts: list[list[int]]) -> str:
    """The report of a run whose training left this confusion matrix."""
    path = RunDirectory(run).artifact("train", "confusion.json")
    content = json.dumps({"classes": classes, "val": counts, "test": counts})
    replace_output(run, "train", path, content.encode())
    return write_report(RunDirectory(run)).read_text()


def test_a_confusion_matrix_holds_shares_of_each_label(run_copy: Path) -> None:
    text = matrix_page(run_copy, ["road", "<sky>"], [[90, 10], [0, 0]])

    assert re.findall(r'<td style="--share:(\d+)">(\d*)</td>', text) == [
        ("90", "90"),
        ("10", "10"),
        ("0", ""),
        ("0", ""),
    ]
    assert "road for &lt;sky&gt; (10.0%)" in text


@pytest.mark.parametrize(("classes", "shown"), [(30, True), (400, False)])
def test_a_confusion_matrix_of_many_classes_scrolls_in_its_own_box(run_copy: Path, classes: int, shown: bool) -> None:
    counts = np.eye(classes, dtype=int)
    counts[3, 2] = 1
    text = matrix_page(run_copy, [f"class number {n}" for n in range(classes)], counts.tolist())

    assert (text.count("<td style=") == classes**2) == shown
    assert ('class="wide matrix" tabindex="0" role="region" aria-label="Confusion matrix"' in text) == shown
    assert "class number 3 for class number 2 (50.0%)" in text
    assert len(text.encode()) < LARGEST_BYTES


@pytest.mark.parametrize(("count", "tables"), [(0, 0), (12, 1), (13, 2), (30, 3)])
def test_many_classes_are_tables_that_fill_both_columns(run_copy: Path, count: int, tables: int) -> None:
    manifest = json.loads((run_copy / "manifest.json").read_text())
    figures = manifest["stages"]["train"]["figures"]
    scores = next(iter(figures["test_classes"].values()))
    figures["test_classes"] = {f"class number {n}": scores for n in range(count)}
    (run_copy / "manifest.json").write_text(json.dumps(manifest))
    text = write_report(RunDirectory(run_copy)).read_text()

    assert len(re.findall(r'aria-label="Accuracy by class(?:, part \d)?"', text)) == tables
    assert len(re.findall(r'<th scope="row">class number \d+', text)) == count


def test_labels_that_fail_the_gate_fail_it_on_the_page(run_copy: Path) -> None:
    path = RunDirectory(run_copy).artifact("validate", "report.json")
    gate = json.loads(path.read_text())
    gate["data_checks"] = [{"name": "reference_miou_share", "value": 0.2, "limit": 0.9, "status": "failed"}]
    replace_output(run_copy, "validate", path, json.dumps(gate).encode())
    facts = read_facts(RunDirectory(run_copy))
    text = write_report(RunDirectory(run_copy)).read_text()

    assert {hop.status for hop in facts.hops} == {"passed"}
    assert facts.gate == "failed"
    assert 'Release gate: <span class="failed">failed' in text
    assert 'data: reference_miou_share</th><td class="failed">failed' in text
    assert '<td>reference_miou_share</td><td class="number">0.2</td>' in text


def test_several_runs_are_compared_on_one_page(finished_run: Path, run_copy: Path, tmp_path: Path) -> None:
    manifest = json.loads((run_copy / "manifest.json").read_text())
    manifest["stages"]["train"]["params"]["train"]["epochs"] = 99
    (run_copy / "manifest.json").write_text(json.dumps(manifest))
    out = tmp_path / "both.html"
    result = CliRunner().invoke(app, ["report", str(finished_run), str(run_copy), "-o", str(out)])
    text = out.read_text()

    assert (result.exit_code, result.stdout.strip()) == (0, str(out))
    assert '<th scope="row">train.epochs</th>' in text
    assert "<code>99</code>" in text
    assert "measured apart" in text
    assert len(text.encode()) < LARGEST_BYTES


def test_settings_of_stages_that_a_run_lacks_are_no_differences(finished_run: Path, run_copy: Path) -> None:
    manifest = json.loads((run_copy / "manifest.json").read_text())
    del manifest["stages"]["benchmark"]
    (run_copy / "manifest.json").write_text(json.dumps(manifest))

    assert differences([read_facts(RunDirectory(run)) for run in (finished_run, run_copy)]) == {}


def test_a_setting_of_several_stages_differs_once(finished_run: Path, run_copy: Path) -> None:
    manifest = json.loads((run_copy / "manifest.json").read_text())
    for stage, height in (("train", 99), ("validate", 99), ("benchmark", 98)):
        manifest["stages"][stage]["params"]["data"]["height"] = height
    (run_copy / "manifest.json").write_text(json.dumps(manifest))
    apart = differences([read_facts(RunDirectory(run)) for run in (finished_run, run_copy)])
    for stage in ("train", "validate", "benchmark"):
        manifest["stages"][stage]["params"]["data"]["height"] = 99
    (run_copy / "manifest.json").write_text(json.dumps(manifest))
    once = differences([read_facts(RunDirectory(run)) for run in (finished_run, run_copy)])

    assert once == {"data.height": ["48", "99"]}
    assert apart == {
        "data.height (train)": ["48", "99"],
        "data.height (validate)": ["48", "99"],
        "data.height (benchmark)": ["48", "98"],
    }


def test_runs_without_figures_can_be_compared(empty_run: RunDirectory, tmp_path: Path) -> None:
    assert "2 runs compared" in write_comparison([empty_run, empty_run], tmp_path / "c.html").read_text()


def test_what_can_be_deployed_stands_side_by_side_in_the_report_and_as_json(run_copy: Path, tmp_path: Path) -> None:
    alone = CliRunner().invoke(app, ["report", str(run_copy), "--json"])
    both = CliRunner().invoke(app, ["report", str(run_copy), str(run_copy), "-o", str(tmp_path / "c.html"), "--json"])
    (told,) = json.loads(alone.stdout)["runs"]
    forms = {form["name"]: form for form in told["forms"]}
    sizes = {row.name: row.file for row in held_by(RunDirectory(run_copy).manifest)}

    assert forms.keys() == sizes.keys() > {"onnxruntime-cpu", "tensorrt-rtx"}
    assert forms["onnxruntime-cpu"]["miou_drop"]["low"] <= forms["onnxruntime-cpu"]["miou_drop"]["high"]
    assert forms["onnxruntime-cpu"]["latency_ms"]["value"] > 0
    if not has_gpu():
        assert (forms["tensorrt-rtx"]["stands_in"], forms["tensorrt-rtx"]["verdict"]) == (True, "not judged")
    assert forms["tensorrt-rtx"]["miou"] is not None
    assert len(json.loads(both.stdout)["runs"]) == 2
    for page in (run_copy / "report.html", tmp_path / "c.html"):
        assert all(f'<th scope="row">{name}' in page.read_text() for name in forms)


def test_a_form_that_nobody_judged_or_measured_has_its_size_alone(run_copy: Path) -> None:
    manifest = json.loads((run_copy / "manifest.json").read_text())
    del manifest["stages"]["validate"], manifest["stages"]["benchmark"]
    (run_copy / "manifest.json").write_text(json.dumps(manifest))

    (form, *_) = read_facts(RunDirectory(run_copy)).forms

    assert form.size_bytes > 0
    assert (form.verdict, form.miou, form.miou_drop, form.latency_ms) == ("not judged", None, None, None)
    assert "Side by side" in write_report(RunDirectory(run_copy)).read_text()


def test_facts_of_a_finished_run(finished_run: Path) -> None:
    facts = read_facts(RunDirectory(finished_run))

    assert facts.gate == "passed"
    assert facts.engines["tensorrt-rtx"].fp16_share == 1.0
    assert len(facts.history["epoch"]) == 3


def test_a_report_loads_no_package_that_takes_seconds(run_copy: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom segpipe.rundir.directory import RunDirectory\n"
        "from stages.report import write_report\n"
        "write_report(RunDirectory(Path(sys.argv[1])))\nprint(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(run_copy)], capture_output=True, text=True, check=True, cwd=ROOT
    )

    assert not {"torch", "lightning", "onnx", "scipy"} & set(done.stdout.split())


def replace_output(run: Path, stage: str, path: Path, data: bytes) -> None:
    """Put other bytes in the place of a stage's output, vouched for like the first."""
    import hashlib

    path.write_bytes(data)
    manifest = json.loads((run / "manifest.json").read_text())
    record = StageRecord.model_validate(manifest["stages"][stage]).model_dump()
    record["outputs"][path.name] = {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
    manifest["stages"][stage] = record
    (run / "manifest.json").write_text(json.dumps(manifest))


def test_lines_past_other_stages_stay_in_the_picture(finished_run: Path) -> None:
    svg = lineage(read_facts(RunDirectory(finished_run)))
    width, height = map(float, re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)', svg)[0])
    drawn = [path for path in re.findall(r' d="([^"]*)"', svg) if "L" in path and "z" not in path]
    points = [pair for path in drawn for pair in re.findall(r"(-?[\d.]+) (-?[\d.]+)", path)]

    assert len(points) > 20
    assert all(2 < float(x) < width - 2 and 2 < float(y) < height - 2 for x, y in points)


def hrefs(page: Path) -> list[Path]:
    """The files that a page leads to."""
    found = re.findall(r'<a href="([^"#]+)', page.read_text())
    return [page.parent / unquote(href) for href in found]


def test_every_page_of_a_run_leads_only_to_files_that_are_there(run_copy: Path, tmp_path: Path) -> None:
    run = RunDirectory(run_copy)
    by_key = run.artifact("validate", "gate.html")
    comparison = write_comparison([run, run], tmp_path / "pages/both runs.html")
    report = write_report(run)
    pages = [report, by_key, run_copy / "latest/validate/gate.html", comparison]

    found = {page: hrefs(page) for page in pages}

    assert {*run_copy.rglob("*.html")} <= {*pages}
    assert all(found.values())
    assert [(page, href) for page in pages for href in found[page] if not href.is_file()] == []
    assert {path.resolve() for path in found[by_key]} == {report.resolve()}


def test_a_link_to_a_report_that_is_not_yet_written_says_so(run_copy: Path) -> None:
    page = run_copy / "latest/validate/gate.html"

    unsaid = [href for href in hrefs(page) if not href.is_file() and href.name != "report.html"]

    assert unsaid == []
    assert 'report.html">Report</a> <span class="muted">(once segpipe report has written it)' in page.read_text()


def test_a_report_leads_to_the_gate_of_the_next_verdict_too(run_copy: Path) -> None:
    report = write_report(RunDirectory(run_copy))
    with RunDirectory(run_copy).step("validate", {}, {"judged": "anew"}) as step:
        step.path("gate.html").write_text("<!doctype html>another verdict")

    (gate,) = hrefs(report)
    assert gate.read_text() == "<!doctype html>another verdict"


def test_where_nothing_differs_no_image_is_the_worst(run_copy: Path) -> None:
    run = RunDirectory(run_copy)
    gate = read_gate(run.artifact_bytes("validate", "report.json"), "report", "")
    same = tuple(picture.model_copy(update={"flips": 0, "flips_inside": 0}) for picture in gate.pictures)
    pngs = {picture.file: run.artifact_bytes("validate", picture.file) for picture in gate.pictures}
    apart = same[0].model_copy(update={"flips": 3})

    equal = html(gate.model_copy(update={"pictures": same}), [], pngs)

    assert "No pixel differs on any image." in equal
    assert "<img" not in equal
    assert "<img" in html(gate.model_copy(update={"pictures": (apart, *same[1:])}), [], pngs)
