"""An act that must be refused, and what is said then."""

from collections.abc import Callable

import pytest

from segpipe.errors import SegpipeError


def refused(error: type[SegpipeError], act: Callable[[], object]) -> str:
    """The one line of the error."""
    with pytest.raises(error) as caught:
        act()
    assert caught.value.hint
    assert "\n" not in str(caught.value)
    assert len(caught.value.message) < 400
    return str(caught.value)
