"""Two checkpoints side by side, before anything is scored: a file per kind of difference."""
