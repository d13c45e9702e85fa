"""The command `roialign`: argument parsing and printing, nothing else."""
