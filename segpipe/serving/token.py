"""The token that clients have to send."""

from pathlib import Path

from segpipe.errors import InputError


def read_token(path: Path) -> bytes:
    """The only line of a file."""
    try:
        token = path.read_bytes().strip()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}", hint="name a file that holds the token") from None
    if not token.isascii() or not token.decode().isprintable() or b" " in token or not token:
        raise InputError(f"{path} holds no token", hint="write one line of letters, digits and signs into it")
    return token
