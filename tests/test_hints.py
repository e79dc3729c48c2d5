"""What a command advises can be followed: the words of errors about runs and bundles that are not what it needs."""

from pathlib import Path

import pytest

from segpipe import testing
from tests.calling import call
from tests.tiny import write_tiny


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """What `bundle` writes of a run."""
    call("bundle", testing.make_run(tmp_path / "run"), "-o", tmp_path / "bundle")
    return tmp_path / "bundle"


def test_a_run_that_was_not_validated_is_run_until_it_is(tmp_path: Path) -> None:
    call("show", write_tiny(tmp_path / "run"))
    (tmp_path / "run/manifest.json").write_text('{"schema_version": 1, "stages": {}}')

    code, _, err = call("bundle", tmp_path / "run", "-o", tmp_path / "out")

    assert code == 1
    assert err.rstrip().endswith(f"was not validated. run `segpipe run {tmp_path / 'run'} --until validate`")


@pytest.mark.parametrize("command", ["run", "evaluate", "data check"])
def test_what_needs_a_config_says_that_a_bundle_has_none(bundle: Path, command: str) -> None:
    code, _, err = call(*command.split(), bundle)

    assert code == 1
    assert (
        f"{bundle} is a bundle, which has no config (segpipe.toml). give the run that the bundle was made from" in err
    )
    assert "--hop" not in err


def test_a_bundle_is_judged_hop_by_hop(bundle: Path) -> None:
    code, _, err = call("validate", bundle)

    assert code == 1
    assert f"`segpipe validate {bundle} --hop engine`" in err
