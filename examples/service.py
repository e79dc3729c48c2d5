"""A web service with nothing but the standard library: `python examples/service.py RUN 8000`, then POST a picture.

One segmenter serves all threads. GET tells what runs; POST / gives the mask as a PNG of class numbers.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np

from segpipe import Segmenter
from segpipe.errors import InputError

LARGEST = 64 * 2**20  # bytes of a body


def serve(run: str, port: int) -> ThreadingHTTPServer:
    """A server that is ready to be started."""
    segmenter = Segmenter.open(run)
    segmenter.warm_up()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(200, "application/json", json.dumps(segmenter.describe()).encode())

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            if not 0 < length <= LARGEST:
                return self.answer(413, "text/plain", b"send a picture of at most 64 MiB")
            try:
                image = cv2.imdecode(np.frombuffer(self.rfile.read(length), np.uint8), cv2.IMREAD_COLOR)
                if image is None:
                    return self.answer(400, "text/plain", b"not a picture")
                mask = segmenter(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
            except (InputError, cv2.error) as error:
                return self.answer(400, "text/plain", str(error).encode())
            return self.answer(200, "image/png", cv2.imencode(".png", mask)[1].tobytes())

        def answer(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            """Silent: a line a request is the proxy's business."""

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2])).serve_forever()
