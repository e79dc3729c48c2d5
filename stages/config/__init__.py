"""segpipe.toml as typed objects."""
