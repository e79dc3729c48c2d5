"""What runs offline: data, training, export, engines, validation, benchmark. Stages meet in the run directory."""
