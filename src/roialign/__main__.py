"""`python -m roialign`, the same as the command `roialign`."""

from roialign.cli.app import main

main()
