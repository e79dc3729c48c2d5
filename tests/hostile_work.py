"""What work in a process of its own may do to it. Light: each child imports this."""

import os
import signal
import time

from segpipe.errors import ContractError


def crash() -> bytes:
    os.kill(os.getpid(), signal.SIGSEGV)
    return b""


def hang() -> bytes:
    while True:
        pass


def wait() -> bytes:
    time.sleep(600)
    return b""


def devour() -> bytes:
    return bytes(2 << 30)


def nest() -> bytes:
    return nest()


def refuse(reason: str) -> bytes:
    raise ContractError(reason, hint="change it")


def stumble() -> bytes:
    return dict[str, bytes]()["a key that our own code forgot"]


def chatter() -> bytes:
    print("a library's remark")
    return b"\x00answer"
