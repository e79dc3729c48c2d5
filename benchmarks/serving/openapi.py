"""Schemathesis over the server's own description, in an environment of its own."""

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

from benchmarks.serving.page import Outcome
from segpipe import testing
from tests.serving import TOKEN, picture, serving, token_file

VERSION = "4.32.5"
EXAMPLES = 300  # for each path
_UV = str(Path(sys.executable).with_name("uv"))
_SETTINGS = """
[checks.positive_data_acceptance]  # a description cannot say which bytes are a picture that the network takes
expected-statuses = ["2xx", 422]
"""
_LINES = re.compile(r"^ +(\d+ generated.*|.*ST\d+.*)$", re.MULTILINE)


def openapi(folder: Path) -> Outcome:
    """Schemathesis makes requests of what /openapi.json says, good and bad, and holds the answers to it."""
    (folder / "schemathesis.toml").write_text(_SETTINGS)
    with serving(testing.make_run(folder / "run"), "--token-file", token_file(folder)) as server:
        command = [
            _UV, "tool", "run", "--from", f"schemathesis=={VERSION}", "st", "run",
            f"http://{server.host}:{server.port}/openapi.json", "--header", f"Authorization: Bearer {TOKEN}",
            "--max-examples", str(EXAMPLES), "--seed", "1", "--continue-on-failure", "--generation-database", "none",
            "--no-color",
        ]  # fmt: skip
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        answered, metrics = server.segment(picture()).status, server.metrics()
        code, said = server.end()
    if done.returncode:
        print(done.stdout, file=sys.stderr)
    counts = _counts(metrics)
    lines = [
        f"- schemathesis {VERSION}, at most {EXAMPLES} requests for a path and phase: "
        f"{'; '.join(dict.fromkeys(_LINES.findall(done.stdout))) or done.stderr[-300:]}",
        f"- answers: {', '.join(f'{number} x {status}' for status, number in sorted(counts.items()))}",
    ]
    targets = {
        "no answer is other than described": done.returncode == 0,
        "no 500": "500" not in counts,
        "a picture is answered afterwards, and nothing was logged as a bug": answered == 200
        and (code, "Traceback" in said) == (0, False),
    }
    return Outcome(lines, targets)


def _counts(metrics: dict[str, float]) -> Counter[str]:
    """Answers by their status."""
    counts: Counter[str] = Counter()
    for name, value in metrics.items():
        if found := re.fullmatch(r'segpipe_requests_total\{.*status="(\d+)".*\}', name):
            counts[found[1]] += int(value)
    return counts
