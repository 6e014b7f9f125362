"""An internet in a box: whole mail systems in one process, under a clock that can be moved."""
