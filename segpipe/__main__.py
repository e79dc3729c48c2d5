"""`python -m segpipe` is the command `segpipe`."""

from segpipe.cli import main

main()
