"""The report: one self-contained HTML page of what was built from what, with its figures and pictures."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from segpipe.errors import InputError, RunLockedError, StorageError
from segpipe.rundir import latest
from segpipe.rundir.directory import CONFIG_NAME, TOML_NAME, RunDirectory
from segpipe.rundir.lock import FILE_NAME as LOCK_NAME
from segpipe.rundir.manifest import FILE_NAME as MANIFEST_NAME
from segpipe.rundir.ownership import FILE_NAME as FOLDERS_NAME
from segpipe.rundir.storage import explained_refusals, read_bounded, write_atomically
from stages.measuring.rounds import in_words
from stages.report import figures
from stages.report.images import picture
from stages.report.reading import Benchmarked, Facts, differences, read_facts
from stages.results.figures import ValidateFigures, read

FILE_NAME = latest.REPORT
_OF_A_RUN = {MANIFEST_NAME, CONFIG_NAME, TOML_NAME, LOCK_NAME, FOLDERS_NAME}
_START_BYTES = 256


def write_report(rundir: RunDirectory, out: Path | None = None) -> Path:
    """Write RUN/report.html from the manifest and the stages' own files; what a stage did not leave is left out."""
    facts, images = rundir.at_one_moment(lambda: (read_facts(rundir), _images(rundir)))
    page = _render("report.html.j2", facts=facts, pictures=_pictures(facts), images=images)
    path = _write(out or rundir.path / FILE_NAME, page)
    if out is None and not rundir.manifest.is_bundle:
        with suppress(RunLockedError, StorageError), rundir.writing():  # whoever writes there now copies it too
            latest.refresh(rundir.path, rundir.manifest.stages)
    return path


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
    page = _render(
        "report_comparison.html.j2",
        runs=runs,
        pictures={name: svg for name, svg in pictures.items() if svg},
        classes=list(dict.fromkeys(entry.name for run in runs for entry in run.classes)),
        differences=differences(runs),
    )
    return _write(out, page)


def _pictures(facts: Facts) -> dict[str, str]:
    """Inline SVG by name; a picture whose figures are missing is missing too."""
    drawn = {
        "lineage": figures.lineage(facts),
        "curves": figures.curves(facts.history),
        "classes": figures.class_iou(facts.classes),
        "confusion": figures.confusion(facts.confusion) if facts.confusion else "",
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


def _images(rundir: RunDirectory) -> dict[str, str]:
    """Photographs of what happened, as data URIs."""
    wanted = {
        "samples": ("train", "samples.png"),
        **({} if _nothing_differs(rundir) else {"worst": ("validate", "worst.png")}),
        "measured": ("benchmark", "frames.png"),
    }
    found = {name: picture(rundir, stage, file) for name, (stage, file) in wanted.items()}
    return {name: uri for name, uri in found.items() if uri}


def _nothing_differs(rundir: RunDirectory) -> bool:
    """Whether every hop answered every image as the reference did."""
    judged = read(ValidateFigures, rundir.manifest.stages)
    return judged is not None and judged.all_equal


def _render(template: str, **values: Any) -> str:
    environment = Environment(
        loader=PackageLoader("stages", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[..., str]] = {"number": _number, "share": _share, "in_words": in_words}
    environment.filters.update(filters)
    return environment.get_template(template).render(**values)


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


def _number(value: float | None, form: str = ".4f") -> str:
    return "–" if value is None else format(value, form)  # noqa: RUF001 - the sign for no figure


def _share(value: float | None, form: str = ".3%") -> str:
    return _number(value, form)
