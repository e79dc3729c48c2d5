"""Which preset an imported file is read by: the one that is named, or in a terminal the one that it looks like."""

import logging
import sys
from pathlib import Path

import typer

from segpipe.console import plain
from segpipe.errors import ContractError
from stages.graphs.facts import facts_apart
from stages.graphs.presets import PRESETS, contract_fields, guessed
from stages.import_model import Chosen

_log = logging.getLogger(__name__)
_WAYS = "describe it in a contract.toml and give that with --contract, or name what exported it with --preset"


def chosen(model: Path, contract: Path | None, name: str | None) -> Chosen | None:
    """None where contract.toml says everything. Without it a guess is shown and asked for; scripts get the line."""
    if name is None and contract is not None:
        return None
    facts = facts_apart(model)
    if name is not None:
        return Chosen(name, facts)
    guess = guessed(facts)
    if not guess:
        raise ContractError(f"{model} does not tell what its numbers mean", hint=_WAYS)
    looks = f"{model} looks like {PRESETS[guess].makes}"
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise ContractError(f"{looks}, which nobody has confirmed", hint=f"give --preset {guess}, or {_WAYS}")
    _log.info("%s:", looks)
    for field, value in contract_fields(guess, facts, {}).items():
        _log.info("  %s = %s", field, plain(str(value)))
    try:
        wanted = typer.confirm(f"Import it so (--preset {guess})?", default=False, err=True)
    except typer.Abort:
        raise KeyboardInterrupt from None
    if not wanted:
        raise ContractError(f"{model} was not imported", hint=_WAYS)
    return Chosen(guess, facts)
