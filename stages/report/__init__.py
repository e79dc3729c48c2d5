"""The report: one self-contained HTML page of what was built from what, with its figures and pictures."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from segpipe.errors import InputError
from segpipe.rundir.directory import CONFIG_NAME, TOML_NAME, RunDirectory
from segpipe.rundir.latest import FOLDER
from segpipe.rundir.lock import FILE_NAME as LOCK_NAME
from segpipe.rundir.manifest import FILE_NAME as MANIFEST_NAME
from segpipe.rundir.ownership import FILE_NAME as FOLDERS_NAME
from segpipe.rundir.storage import explained_refusals, read_bounded, write_atomically
from stages.pages.rendering import Link, link, render
from stages.pages.sheets import ShownSheet, read_sheet
from stages.report import figures
from stages.report.reading import Benchmarked, Facts, differences, read_facts
from stages.results.figures import ValidateFigures, read
from stages.results.quantisation import PAGE_NAME as QUANTISATION_PAGE

FILE_NAME = "report.html"
_GATE_PAGE = "gate.html"
_OF_A_RUN = {MANIFEST_NAME, CONFIG_NAME, TOML_NAME, LOCK_NAME, FOLDERS_NAME}
_START_BYTES = 256


def write_report(rundir: RunDirectory, out: Path | None = None) -> Path:
    """Write RUN/report.html from the manifest and the stages' own files; what a stage did not leave is left out."""
    facts, sheets = rundir.at_one_moment(lambda: (read_facts(rundir), _sheets(rundir)))
    page = out or rundir.path / FILE_NAME
    links = (Link("Report"), *_pages_beside(rundir, page))
    return _write(page, render("report.html.j2", links, facts=facts, pictures=_pictures(facts), sheets=sheets))


def fresh_report(rundir: RunDirectory) -> Path:
    """RUN/report.html, written anew only where the run has changed since."""
    path, manifest = rundir.path / FILE_NAME, rundir.path / MANIFEST_NAME
    if path.is_file() and path.stat().st_mtime_ns > manifest.stat().st_mtime_ns:
        return path
    return write_report(rundir)


def write_comparison(rundirs: Sequence[RunDirectory], out: Path) -> Path:
    """Write one page that puts several runs side by side."""
    runs = [rundir.at_one_moment(partial(read_facts, rundir)) for rundir in rundirs]
    pictures = {
        "accuracy": figures.accuracy_by_run(runs),
        "latency": figures.latency_by_run(runs),
    }
    reports = [(run.name, rundir.path / FILE_NAME) for run, rundir in zip(runs, rundirs, strict=True)]
    page = render(
        "comparison.html.j2",
        (Link("Comparison"), *(link(f"Report of {name}", path, out) for name, path in reports if path.is_file())),
        runs=runs,
        gates=[link("", gate, out).href if (gate := _gate_page(rundir)) else "" for rundir in rundirs],
        pictures={name: svg for name, svg in pictures.items() if svg},
        classes=list(dict.fromkeys(entry.name for run in runs for entry in run.classes)),
        differences=differences(runs),
    )
    return _write(out, page)


def forms_as_dict(rundir: RunDirectory) -> dict[str, Any]:
    """What can be deployed of a run, side by side, for --json."""
    facts = rundir.at_one_moment(partial(read_facts, rundir))
    return {
        "run": facts.name,
        "test_miou": facts.miou,
        "gate": facts.gate,
        "forms": [form.as_dict() for form in facts.forms],
    }


def _pictures(facts: Facts) -> dict[str, str]:
    """Inline SVG by name; a picture whose figures are missing is missing too."""
    drawn = {
        "lineage": figures.lineage(facts),
        "curves": figures.curves(facts.history),
        **(_benchmark_pictures(facts.benchmark) if facts.benchmark else {}),
    }
    return {name: svg for name, svg in drawn.items() if svg}


def _benchmark_pictures(benchmark: Benchmarked) -> dict[str, str]:
    return {
        "latency": figures.latency(benchmark),
        "budget": figures.budget(benchmark.report.budget),
        "peers": figures.peers(benchmark.report),
        "throughput": figures.throughput(benchmark.report),
    }


def _sheets(rundir: RunDirectory) -> dict[str, ShownSheet]:
    """Photographs of what happened."""
    wanted = {
        "worst": ("train", "worst.png"),
        "best": ("train", "best.png"),
        "samples": ("train", "augmentation.png"),
        **({} if _nothing_differs(rundir) else {"flips": ("validate", "worst.png")}),
        "measured": ("benchmark", "frames.png"),
    }
    kept = rundir.manifest.stages
    there = {n: (stage, file) for n, (stage, file) in wanted.items() if stage in kept and file in kept[stage].outputs}
    found = {name: read_sheet(rundir.artifact_bytes(stage, file)) for name, (stage, file) in there.items()}
    return {name: sheet for name, sheet in found.items() if sheet and sheet.rows}


def _pages_beside(rundir: RunDirectory, page: Path) -> Iterator[Link]:
    """The stages' own pages, where both lie in the run."""
    if not page.resolve().is_relative_to(rundir.path.resolve()):
        return
    if gate := _gate_page(rundir):
        yield link("Release gate", gate, page)
    if quantisation := _page_of(rundir, "export", QUANTISATION_PAGE):
        yield link("Quantisation", quantisation, page)


def _gate_page(rundir: RunDirectory) -> Path | None:
    return _page_of(rundir, "validate", _GATE_PAGE)


def _page_of(rundir: RunDirectory, stage: str, name: str) -> Path | None:
    """By its plain name, which the next one keeps; a run that was not opened since has it by its key alone."""
    record = rundir.manifest.stages.get(stage)
    if record is None or name not in record.outputs:
        return None
    latest = rundir.path / FOLDER / stage / name
    return latest if latest.is_file() else rundir.path / record.path / name


def _nothing_differs(rundir: RunDirectory) -> bool:
    """Whether every hop answered every image as the reference did."""
    judged = read(ValidateFigures, rundir.manifest.stages)
    return judged is not None and judged.all_equal


def _write(path: Path, page: str) -> Path:
    _refuse_other(path)
    with explained_refusals(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page.encode())
    return path


def _refuse_other(path: Path) -> None:
    """A page replaces a page or an empty file, and never takes the place of what makes a folder a run."""
    hint = "name another file for the page"
    if path.name in _OF_A_RUN:
        raise InputError(f"{path} is a run's own file", hint=hint)
    try:
        start = read_bounded(path)[:_START_BYTES].lstrip().lower()
    except FileNotFoundError:
        return
    if start and not start.startswith((b"<!doctype html", b"<html")):
        raise InputError(f"{path} is there already and is not an HTML page", hint=hint)
