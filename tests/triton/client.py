"""Asks a real server, from the environment of the client packages, which has neither segpipe nor numpy 2.

`python client.py FOLDER`: reads FOLDER/asked.json and the frames and masks beside it; prints what was found as JSON.
"""

import json
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.http
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2
from tritonclient.utils import InferenceServerException

PROTOCOLS: dict[str, Any] = {"http": tritonclient.http, "grpc": tritonclient.grpc}
CROWD = 48


def ask(client: Any, protocol: Any, model: str, frames: Any) -> Any:
    """Masks of a batch of frames."""
    given = protocol.InferInput("frame", list(frames.shape), "UINT8")
    given.set_data_from_numpy(frames)
    return client.infer(model, [given]).as_numpy("mask")


def equal_masks(address: str, protocol: Any, model: str, pairs: list[Any]) -> int:
    with protocol.InferenceServerClient(address) as client:
        return sum(np.array_equal(ask(client, protocol, model, frame[None])[0], mask) for frame, mask in pairs)


def crowd(address: str, model: str, pairs: list[Any]) -> dict[str, int]:
    """Requests that come at once, counted by their answer: `equal` to the wanted mask, or a refusal's status."""

    def one(pair: Any) -> str:
        with tritonclient.http.InferenceServerClient(address) as client:
            try:
                mask = ask(client, tritonclient.http, model, pair[0][None])[0]
            except InferenceServerException as error:
                return str(error.status())
        return "equal" if np.array_equal(mask, pair[1]) else "unlike"

    with ThreadPoolExecutor(len(pairs)) as pool:
        return dict(Counter(pool.map(one, pairs)))


def refusal(address: str, model: str) -> str:
    """What is said to a frame without pixels."""
    with tritonclient.http.InferenceServerClient(address) as client:
        try:
            ask(client, tritonclient.http, model, np.zeros((1, 0, 4, 3), np.uint8))
        except InferenceServerException as error:
            return str(error)
    return "it was answered"


def executions(address: str, model: str) -> int:
    """Calls of the model so far."""
    with tritonclient.http.InferenceServerClient(address) as client:
        return int(client.get_inference_statistics(model)["model_stats"][-1]["execution_count"])


def load(address: str, model: str) -> tuple[str, list[str]]:
    """Ask for the newest version: what was refused, and which versions are ready after it."""
    with tritonclient.http.InferenceServerClient(address) as client:
        try:
            client.load_model(model)
            refused = ""
        except InferenceServerException as error:
            refused = str(error)
        index = client.get_model_repository_index()
    return refused, [row["version"] for row in index if row["name"] == model and row.get("state") == "READY"]


def parsed(configs: list[str]) -> dict[str, str]:
    """Each config read by the server's own protobuf: its name and its backend."""
    models = [text_format.Parse(Path(path).read_text(), model_config_pb2.ModelConfig()) for path in configs]
    return {model.name: model.platform or model.backend for model in models}


def main(folder: Path) -> None:
    asked = json.loads((folder / "asked.json").read_text())
    model, address = asked["model"], asked["addresses"]
    found: dict[str, Any] = {"parsed": parsed(asked["configs"])}
    if "count" in asked:
        stored = np.load(folder / "pairs.npz")
        pairs = [(stored[f"frame{n}"], stored[f"mask{n}"]) for n in range(asked["count"])]
        found |= {name: equal_masks(address[name], protocol, model, pairs) for name, protocol in PROTOCOLS.items()}
        large = [(stored["large_frame"], stored["large_mask"])] * CROWD
        before = executions(address["http"], model)
        found["crowd"] = crowd(address["http"], model, large)
        found["calls"] = executions(address["http"], model) - before
        load(address["http"], asked["narrow"])
        found["narrow"] = crowd(address["http"], asked["narrow"], large)
        found["refusal"] = refusal(address["http"], model)
    if asked.get("load"):
        found["refused"], found["ready"] = load(address["http"], model)
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
