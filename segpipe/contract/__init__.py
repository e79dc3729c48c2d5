"""How pixels become numbers and numbers become classes."""
