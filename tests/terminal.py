"""A terminal of the tests' own, for commands that ask, fold or colour only in one."""

import errno
import fcntl
import os
import pty
import select
import struct
import termios

from tests.children import PATIENCE_S, child


def in_terminal(*command: str, typed: str = "", columns: int = 80, **environment: str) -> tuple[int, bytes]:
    """Exit code of a command, and what it sends to a terminal where somebody has typed this."""
    ours, theirs = pty.openpty()
    try:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        with child(
            *command, stdin=theirs, stdout=theirs, stderr=theirs, env={"TERM": "xterm"} | environment
        ) as process:
            os.close(theirs)
            os.write(ours, typed.encode())
            sent = b""
            while piece := _read(ours):
                sent += piece
            return process.wait(PATIENCE_S), sent.replace(b"\r\n", b"\n")
    finally:
        os.close(ours)


def _read(terminal: int) -> bytes:
    assert select.select([terminal], [], [], PATIENCE_S)[0], "it hangs"
    try:
        return os.read(terminal, 65536)
    except OSError as error:  # how Linux tells that nobody has the terminal open any more
        if error.errno != errno.EIO:
            raise
        return b""
