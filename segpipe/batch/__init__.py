"""Many images: what is to do, who does it, and an index of what is done. `predicting` says what done means."""
