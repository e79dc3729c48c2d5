"""From what a person names to masks in a folder: what is meant, what is done, what is made."""
