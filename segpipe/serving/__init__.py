"""A run or bundle behind HTTP: one process, one model at a time, threads. Needs the extra `serve`."""
