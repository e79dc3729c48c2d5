"""What makes the documentation: generated pages, pictures, and the site itself."""
