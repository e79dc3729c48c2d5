"""Step: one stage in the making. Owns freshness, work in progress and the commit."""

import logging
import os
import platform
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from segpipe.errors import ContractError, StorageError, word
from segpipe.rundir import manifest
from segpipe.rundir.freshness import why_stale
from segpipe.rundir.manifest import Manifest, Output, StageRecord
from segpipe.rundir.ownership import entry_of, is_key_name, key_folders, made_entries, remember
from segpipe.rundir.storage import remove_folder, remove_others, sha256_of, sync_directory, sync_file

SCRATCH = "resume"
"""The one folder beside a stage's outputs that its body may fill as it likes; it goes away with the commit."""

_log = logging.getLogger(__name__)


class Step:
    """One stage in the making. Its files lie in a .partial folder until the manifest names them."""

    def __init__(self, run: Path, stage: str, inputs: dict[str, str], params: dict[str, Any]) -> None:
        self.stale = False
        self.figures: dict[str, Any] = {}
        self.environment: dict[str, str] = {"python": platform.python_version(), "platform": platform.platform()}
        self.contract_sha256: str | None = None
        self._run, self._stage, self._inputs, self._params = run, stage, inputs, params
        self._key = manifest.stage_key(inputs, params)
        self._names: set[str] = set()
        self._home = run / stage
        self._partial = self._home / f"{self._key[:12]}.partial"
        self._own = {entry_of(self._partial)}

    def begin(self, current: Manifest, forced: bool) -> None:
        """Decide whether there is work, say why, and prepare the folder for it."""
        record = current.stages.get(self._stage)
        intact = record is not None and record.key == self._key and is_intact(self._run, record)
        self.stale = forced or not intact
        if record is not None:
            self._own.add(entry_of(self._run / record.path))
        if not self.stale and record is not None:
            _log.info("%s: fresh, nothing to do", self._stage)
            if not self._links():
                self._tidy(self._run / record.path, keep_partials=True)
            return
        self._refuse_links()
        remember(self._run, self._own)
        self._recover({record.path for record in current.stages.values()})
        state = "resuming, " if self._partial.exists() else ""
        reason = "forced" if forced else why_stale(record, self._inputs, self._params)
        _log.info("%s: %s%s", self._stage, state, reason)
        self._partial.mkdir(parents=True, exist_ok=True)
        self._started = datetime.now(UTC)
        self._clock = time.monotonic()

    def path(self, name: str) -> Path:
        """Where the body writes the output `name`; what a killed attempt left there is no output."""
        path = self._below(name)
        if name not in self._names:
            path.unlink(missing_ok=True)
            self._names.add(name)
        return path

    def scratch(self) -> Path:
        """The folder where the body keeps work in progress; it survives a kill and goes away with the commit."""
        return self._below(SCRATCH)

    def _below(self, name: str) -> Path:
        if not self.stale:
            raise RuntimeError(f"stage '{self._stage}' is fresh and writes nothing, yet its body asks for {name}")
        path = self._partial / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def commit(self, current: Manifest) -> Manifest:
        """Hash and sync the outputs, move the folder to its final name, replace the manifest, then tidy."""
        self._refuse_other_contract(current.contract_sha256)
        outputs = {name: self._finished(name) for name in sorted(self._names)}
        self._drop_leftovers()
        final = self._free_name()
        self._partial.rename(final)
        sync_directory(self._home)
        record = StageRecord(
            key=self._key,
            path=final.relative_to(self._run).as_posix(),
            inputs=self._inputs,
            params=self._params,
            environment=self.environment,
            outputs=outputs,
            started_utc=self._started.isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - self._clock, 3),
            figures=self.figures,
        )
        updated = current.with_stage(self._stage, record, self.contract_sha256)
        manifest.save(self._run, updated)
        self._tidy(final, keep_partials=False)
        return updated

    def _refuse_other_contract(self, ours: str | None) -> None:
        """A stage that starts a run sets its contract; one that builds on others must share theirs."""
        theirs = self.contract_sha256
        builds_on_others = any(manifest.logical_name(name) != name for name in self._inputs)
        if builds_on_others and ours and theirs and ours != theirs:
            raise ContractError(
                f"stage '{self._stage}' was made for contract {theirs[:12]}, the run has {ours[:12]}",
                hint=f"run `segpipe run {word(self._run)}` so that every stage uses one contract",
            )

    def _finished(self, name: str) -> Output:
        path = self._partial / name
        if not path.is_file():
            raise StorageError(f"stage '{self._stage}' did not write its output {name}", hint="report this as a bug")
        sync_file(path)
        sync_directory(path.parent)
        return Output(sha256=sha256_of(path), size_bytes=path.stat().st_size)

    def _free_name(self) -> Path:
        """The key's folder; where a forced or repaired stage already holds that name, a numbered one."""
        names = [self._key[:12], *(f"{self._key[:12]}-{n}" for n in range(1, 10))]
        return next(self._home / name for name in names if not os.path.lexists(self._home / name))

    def _recover(self, named: set[str]) -> None:
        """A kill between the rename and the commit left a finished but unnamed folder: back to work in progress."""
        for folder in key_folders(self._home):
            if (
                not folder.name.startswith(self._key[:12])
                or folder.suffix == ".partial"
                or folder.relative_to(self._run).as_posix() in named
            ):
                continue
            if self._partial.exists():
                remove_folder(self._home, folder.name)
            else:
                folder.rename(self._partial)

    def _drop_leftovers(self) -> None:
        """What a killed attempt wrote here and this one did not is no output; the scratch lives until the commit."""
        scratch = {path.relative_to(self._partial).as_posix() for path in self.scratch().rglob("*")}
        remove_others(self._partial, self._names | scratch)

    def _tidy(self, final: Path, keep_partials: bool) -> None:
        """Delete what stages made and the manifest no longer names: superseded folders and scratch.

        Goes on after a kill. Whatever else lies beside them is the user's, whatever it is called.
        """
        own = self._own | made_entries(self._run)
        for folder in key_folders(self._home):
            if entry_of(folder) in own and folder != final and not (keep_partials and folder.suffix == ".partial"):
                remove_folder(self._home, folder.name)
        if (final / SCRATCH).is_dir() and not (final / SCRATCH).is_symlink():
            remove_folder(final, SCRATCH)

    def _links(self) -> list[Path]:
        """Symbolic links where the stage writes and deletes: its home, its folders, and all in the one in progress."""
        folders = [path for path in self._home.glob("*") if is_key_name(path.name)]
        return [path for path in (self._home, *folders, *self._partial.rglob("*")) if path.is_symlink()]

    def _refuse_links(self) -> None:
        if links := self._links():
            raise StorageError(
                f"{links[0]} is a symbolic link: a stage writes and deletes only in folders of its own run",
                hint="put the folder itself there; to use another disk, move the whole run directory and link that",
            )


def is_intact(run: Path, record: StageRecord) -> bool:
    """Whether every output of the record still has its recorded bytes; a record without any is no stage's."""
    folder = run / record.path
    return bool(record.outputs) and all(
        (folder / name).is_file() and sha256_of(folder / name) == output.sha256
        for name, output in record.outputs.items()
    )
