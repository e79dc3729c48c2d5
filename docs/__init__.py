"""The documentation: pages, and in making/ what makes the rest."""
