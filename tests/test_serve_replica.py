"""`segpipe serve` behind somebody else's sockets: the file for Ray Serve, and a replica that keeps its model."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from segpipe import Segmenter, testing
from segpipe.errors import BackendError, InputError, NotValidatedError
from segpipe.runtime.cuda.device import DeviceLostError
from segpipe.serving.metrics import Metrics
from segpipe.serving.ray_file import Arguments, UserConfig
from segpipe.serving.replica import Replica
from tests.calling import call
from tests.serving import TOKEN, picture, token_file
from tests.test_serve_swap import OTHER, sha256


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs that passed, and one that failed."""
    folder = tmp_path_factory.mktemp("runs")
    testing.make_run(folder / "first")
    testing.make_run(folder / "second", OTHER)
    testing.make_run(folder / "failed", OTHER, status="failed")
    return folder


@pytest.fixture
def replica(runs: Path) -> Iterator[Replica]:
    with closing(Replica(Arguments(), {"run": str(runs / "first")}, 1, Metrics())) as found:
        yield found


def ask(replica: Replica, method: str, path: str, body: bytes = b"", token: str = "") -> tuple[int, str, bytes]:
    """Status, artifact and body of an answer, as a server of ASGI gets them."""
    headers = [(b"authorization", f"Bearer {token}".encode())] if token else []
    scope = {"type": "http", "method": method, "path": path, "headers": headers, "query_string": b""}
    said: list[Any] = []
    asked = [{"type": "http.request", "body": body}]

    async def receive() -> Any:
        return asked.pop() if asked else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        said.append(message)

    asyncio.run(replica.answer(scope, receive, send))
    found = dict(said[0]["headers"])
    return said[0]["status"], found.get(b"x-segpipe-artifact", b"").decode(), b"".join(m["body"] for m in said[1:])


def test_a_replica_answers_as_the_server_does_and_takes_what_passed(runs: Path, replica: Replica) -> None:
    before = ask(replica, "POST", "/segment", picture())
    replica.take({"run": str(runs / "second")})
    after = ask(replica, "POST", "/segment", picture())

    assert (before[0], before[1]) == (200, sha256(runs / "first"))
    assert (after[0], after[1]) == (200, sha256(runs / "second"))
    assert before[2] == after[2], "the classes have other names, and the same colours"


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"run": "failed"}, "was judged: failed"),
        ({"run": "nowhere"}, "there is no run directory"),
        ({"run": "second", "backend": "abacus"}, "abacus"),
        ({"run": "second", "max_megapixels": 0}, "max_megapixels"),
        ({"run": "second", "colour": "red"}, "colour"),
        ({}, "run"),
    ],
)
def test_what_is_refused_leaves_the_model_and_is_told(
    runs: Path, replica: Replica, config: dict[str, Any], said: str
) -> None:
    replica.take({**config, "run": str(runs / config["run"])} if config else config)

    told = json.loads(ask(replica, "GET", "/model")[2])
    assert told["last_reload"]["outcome"] == "refused"
    assert said in told["last_reload"]["reason"]
    assert ask(replica, "POST", "/segment", picture())[:2] == (200, sha256(runs / "first"))
    assert b'segpipe_reloads_total{outcome="refused"} 1.0' in ask(replica, "GET", "/metrics")[2]
    replica.require_health()


def test_the_first_model_must_open_or_there_is_no_replica(runs: Path) -> None:
    with pytest.raises(NotValidatedError, match="was judged: failed"):
        Replica(Arguments(), {"run": str(runs / "failed")}, 1, Metrics())
    with pytest.raises(InputError, match="user_config is not"):
        Replica(Arguments(), {}, 1, Metrics())


def test_a_replica_has_the_guard_and_reloads_by_its_config_alone(runs: Path, tmp_path: Path) -> None:
    arguments = Arguments(token_file=token_file(tmp_path), max_bytes=100)
    with closing(Replica(arguments, {"run": str(runs / "first")}, 1, Metrics())) as replica:
        statuses = [
            ask(replica, "POST", "/segment", picture())[0],
            ask(replica, "POST", "/segment", bytes(101), TOKEN)[0],
        ]
        reloaded = ask(replica, "POST", "/reload", token=TOKEN)

    assert statuses == [401, 413]
    assert reloaded[0] == 403
    assert b"by its user_config" in reloaded[2]


def test_a_replica_whose_gpu_is_lost_asks_to_be_replaced(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: object) -> None:
        raise DeviceLostError("cuLaunch failed", hint="the GPU was lost")

    monkeypatch.setattr(Segmenter, "detail", lost)
    status = ask(replica, "POST", "/segment", picture())[0]

    assert status == 503
    with pytest.raises(BackendError, match="has to be restarted"):
        replica.require_health()


def test_the_file_says_what_the_command_was_told(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs)
    file, token = tmp_path / "serve.yaml", token_file(tmp_path)

    code, out, _ = call(
        "serve", "first", "--ray-config", file, "--token-file", token, "--port", "8100", "--max-bytes", "99",
        "--queue", "5", "--backend", "onnxruntime-cpu", "--shadow", "0.00001",
    )  # fmt: skip

    assert (code, out) == (0, f"{file}\n")
    written = yaml.safe_load(file.read_text())
    (application,) = written["applications"]
    (deployment,) = application["deployments"]
    assert written["http_options"] == {"host": "127.0.0.1", "port": 8100, "request_timeout_s": 60}
    assert Arguments.model_validate(application["args"]) == Arguments(token_file=token, max_bytes=99)
    assert UserConfig.model_validate(deployment["user_config"]) == UserConfig(
        run=runs / "first", backend="onnxruntime-cpu", shadow=1e-5
    )
    assert deployment["max_queued_requests"] == 5


def test_paths_of_any_signs_come_back_from_the_file(runs: Path, tmp_path: Path) -> None:
    run, file = tmp_path / "str\U0001f6e3eet's \"\x7f\u2028\\ud83d #", tmp_path / "serve\x7f\n.yaml"
    run.symlink_to(runs / "first")

    assert call("serve", run, "--ray-config", file)[0] == 0

    written = yaml.safe_load(file.read_text())["applications"][0]["deployments"][0]
    assert written["user_config"]["run"] == str(run)


def test_a_link_that_leads_nowhere_stays(runs: Path, tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.symlink_to("nowhere")

    code, _, said = call("serve", runs / "first", "--ray-config", file)

    assert code == 1
    assert "is there already" in said
    assert file.is_symlink()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("nowhere", "--ray-config", "new.yaml"), 1, "there is no run directory"),
        (("first", "--ray-config", "first"), 1, "is there already"),
        (("first", "--ray-config", "new.yaml", "--token-file", "none"), 1, "none cannot be read"),
        (("first", "--ray-config", "new.yaml", "--watch"), 2, "--watch is for one process"),
        (("first", "--ray-config", "new.yaml", "--backend", "nonsense"), 1, "there is no backend 'nonsense'"),
        (("first", "--ray-config", "new.yaml", "--port", "0"), 1, "port 0 takes another port on every node"),
        (("first", "--ray-config", "no/such/folder.yaml"), 1, "cannot write"),
    ],
)
def test_what_keeps_the_file_from_being_written_is_one_line(
    words: tuple[str, ...], code: int, said: str, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(runs)

    ended = call("serve", *words)

    assert ended[0] == code
    assert said in ended[2]
    assert ended[2].count("\n") == 1
    assert not (runs / "new.yaml").exists()
