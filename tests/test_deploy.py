"""The files of examples/deploy agree with `segpipe serve` and with each other. No image was ever built of them here."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from segpipe import testing
from segpipe.serving.guard import OPEN_PATHS
from segpipe.serving.ray_file import Arguments, UserConfig, write_ray_file
from segpipe.serving.server import _LEAVE_S
from tests.ray_pods import FILES, pods
from tests.test_docs import parse

DEPLOY = Path(__file__).parents[1] / "examples/deploy"
PORT = 8000
USER = 10001


def read(name: str) -> str:
    return (DEPLOY / name).read_text()


def instruction(name: str) -> Any:
    """The JSON of an instruction of the Dockerfile."""
    return json.loads(re.findall(rf"^{name} (\[.*\])$", read("Dockerfile.serve"), re.MULTILINE)[0])


def deployment() -> Any:
    documents = list(yaml.safe_load_all(read("kubernetes.yaml")))
    return next(document for document in documents if document["kind"] == "Deployment")["spec"]["template"]["spec"]


def unit(key: str) -> list[str]:
    """The values of a key of the systemd unit."""
    return re.findall(rf"^{key}=(.*)$", read("segpipe.service"), re.MULTILINE)


def service_commands() -> dict[str, list[str]]:
    """What each file starts, from the word `serve` on."""
    entry = instruction("ENTRYPOINT")
    return {
        "Dockerfile.serve": [*entry[1:], *instruction("CMD")],
        "kubernetes.yaml": [*entry[1:], *deployment()["containers"][0]["args"]],
        "segpipe.service": shlex.split(unit("ExecStart")[0])[1:],
    }


@pytest.mark.parametrize("name", ["Dockerfile.serve", "kubernetes.yaml", "segpipe.service"])
def test_what_is_started_is_a_command_with_a_token(name: str) -> None:
    words = service_commands()[name]

    parse(words, name)
    assert words[0] == "serve"
    assert words[words.index("--port") + 1] == str(PORT)
    assert "--token-file" in words


def test_probes_ask_for_what_is_answered_without_a_token() -> None:
    container = deployment()["containers"][0]
    probes = {name: container[name]["httpGet"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
    asked = re.findall(rf"http://127\.0\.0\.1:{PORT}(/\w+)", read("Dockerfile.serve"))
    scraped = yaml.safe_load(read("prometheus.yml"))["scrape_configs"][0]

    assert {probe["path"] for probe in probes.values()} == {"/readyz", "/healthz"}
    assert probes["livenessProbe"]["path"] == "/healthz"  # a model that is being opened is no reason to start again
    assert {*asked, scraped["metrics_path"], "/healthz"} <= OPEN_PATHS
    assert {probe["port"] for probe in probes.values()} == {container["ports"][0]["name"]}
    assert scraped["static_configs"][0]["targets"] == [f"segpipe:{PORT}"]


def test_nobody_is_killed_while_answers_are_on_their_way() -> None:
    compose = yaml.safe_load(read("compose.yaml"))["services"]["segpipe"]
    waits = [
        int(compose["stop_grace_period"].removesuffix("s")),
        deployment()["terminationGracePeriodSeconds"],
        int(unit("TimeoutStopSec")[0]),
    ]

    assert min(waits) > _LEAVE_S


def test_nothing_runs_as_root_or_is_open_to_the_network_by_itself() -> None:
    compose = yaml.safe_load(read("compose.yaml"))["services"]
    spec = deployment()

    assert re.findall(r"^USER (.*)$", read("Dockerfile.serve"), re.MULTILINE) == [f"{USER}:{USER}"]
    assert (spec["securityContext"]["runAsUser"], spec["securityContext"]["runAsNonRoot"]) == (USER, True)
    assert unit("DynamicUser") == ["yes"]
    assert all(port.startswith("127.0.0.1:") for service in compose.values() for port in service["ports"])
    assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1


def test_what_is_mounted_is_there_and_what_is_named_is_mounted() -> None:
    compose = yaml.safe_load(read("compose.yaml"))["services"]
    spec, words = deployment(), service_commands()["kubernetes.yaml"]
    mounts = {mount["name"]: mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"]}
    build = compose["segpipe"]["build"]

    assert (DEPLOY / build["context"] / build["dockerfile"]).resolve() == DEPLOY / "Dockerfile.serve"
    assert (DEPLOY / compose["prometheus"]["volumes"][0].partition(":")[0]).is_file()
    assert {*mounts} == {volume["name"] for volume in spec["volumes"]}
    assert words[1] == mounts["model"]
    assert words[words.index("--token-file") + 1] == f"{mounts['token']}/token"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    there = re.sub(r"^(ExecStart=)\S+", r"\1/bin/true", read("segpipe.service"), flags=re.MULTILINE)
    (tmp_path / "segpipe.service").write_text(there)

    done = subprocess.run(
        ["systemd-analyze", "verify", tmp_path / "segpipe.service"], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")


def application() -> Any:
    """What the RayService has Ray Serve run, and how."""
    return yaml.safe_load(yaml.safe_load(read("ray-service.yaml"))["spec"]["serveConfigV2"])


def names(tree: Any) -> Any:
    """A tree of settings without their values."""
    if isinstance(tree, dict):
        return {name: names(value) for name, value in tree.items()}
    return [*map(names, tree)] if isinstance(tree, list) else None


def test_the_service_on_ray_has_the_settings_that_the_command_writes(tmp_path: Path) -> None:
    opened = UserConfig(run=testing.make_run(tmp_path / "run"))
    write_ray_file(tmp_path / "serve.yaml", opened, Arguments(), ("0.0.0.0", PORT), 16)
    written, ours = yaml.safe_load((tmp_path / "serve.yaml").read_text()), application()

    assert names(ours) == names(written)
    (deployment,) = ours["applications"][0]["deployments"]
    assert UserConfig.model_validate(deployment["user_config"]).backend == "auto"
    assert Arguments.model_validate(ours["applications"][0]["args"]).max_bytes == Arguments().max_bytes
    assert ours["http_options"] == written["http_options"]


def test_pods_of_ray_have_what_their_commands_name_and_no_rights() -> None:
    ours = application()["applications"][0]
    job = yaml.safe_load(read("ray-job.yaml"))["spec"]["entrypoint"].split()
    parse(job[1:], "ray-job.yaml")
    used = {"ray-service.yaml": [ours["args"]["token_file"], ours["deployments"][0]["user_config"]["run"]]}
    used["ray-job.yaml"] = [word for word in job if word.startswith("/")]

    for name in FILES:
        for pod in pods(name):
            (container,) = pod["spec"]["containers"]
            mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
            assert {*mounts} == {volume["name"] for volume in pod["spec"]["volumes"]}
            assert all(path.startswith(tuple(mounts.values())) for path in used[name])
            assert (pod["spec"]["securityContext"]["runAsUser"], container["securityContext"]["capabilities"]) == (
                USER,
                {"drop": ["ALL"]},
            )


def test_a_pod_of_ray_is_there_for_as_long_as_its_replicas_may_take_to_end() -> None:
    patience_s = application()["applications"][0]["deployments"][0]["graceful_shutdown_timeout_s"]

    assert all(pod["spec"]["terminationGracePeriodSeconds"] > patience_s for pod in pods("ray-service.yaml"))
