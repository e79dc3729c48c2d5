"""What all pages share: one look, one navigation, and pictures that follow the reader's colour scheme."""
