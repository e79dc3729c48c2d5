"""What a GPU's errors look like from outside `segpipe serve`: 503 in the runtime's words, and never a hang."""

from pathlib import Path

from segpipe import testing
from tests.host_driver.served import CROWDED, FAILS, FULL, LOST, PLANT
from tests.serving import BEARER, picture, serving, token_file
from tests.test_serve_swap import lead


def test_a_gpu_without_memory_costs_a_picture_or_a_swap_and_a_lost_one_the_server(tmp_path: Path) -> None:
    for name in ("first", CROWDED):
        testing.make_run(tmp_path / name)
    lead(tmp_path, "first")
    with serving(tmp_path / "current", "--token-file", token_file(tmp_path), before=PLANT) as served:

        def probes() -> list[int]:
            return [served.ask("GET", path).status for path in ("/readyz", "/healthz")]

        def reload() -> tuple[int, str]:
            answer = served.ask("POST", "/reload", headers=BEARER)
            return answer.status, answer.json["detail"]

        whole = served.segment(picture())
        full, after_full = served.segment(picture(1000, FULL)), served.segment(picture())
        failed, after_failure = served.segment(picture(40, FAILS)), served.segment(picture())
        lead(tmp_path, CROWDED)
        refused, after_swap, before_loss = reload(), served.segment(picture()), probes()
        lost = [served.segment(picture(40, LOST)), served.segment(picture())]
        after_loss, again = probes(), reload()
        counted = served.metrics()
        code, said = served.end()

    assert [answer.body for answer in (after_full, after_failure, after_swap)] == [whole.body] * 3
    assert (whole.status, full.status, failed.status, before_loss) == (200, 503, 503, [200, 200])
    assert "CUDA_ERROR_OUT_OF_MEMORY" in full.json["detail"]
    assert "CUDA_ERROR_INVALID_VALUE" in failed.json["detail"]
    assert refused[0] == 422
    assert "CUDA_ERROR_OUT_OF_MEMORY" in refused[1]
    assert [answer.status for answer in lost] == [503, 503]
    assert "CUDA_ERROR_ILLEGAL_ADDRESS" in lost[0].json["detail"]
    assert "has to be restarted" in lost[1].json["detail"]
    assert after_loss == [503, 503]
    assert again[0] == 422
    assert "the GPU was lost" in again[1]
    assert counted["segpipe_backend_failures_total"] == 3
    assert (counted["segpipe_ready"], counted['segpipe_reloads_total{outcome="refused"}']) == (0, 2)
    assert (code, "Traceback" in said) == (0, False)
    assert said.count("a picture failed: ") == 3
