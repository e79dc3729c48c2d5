"""Images, and the containers of videos, in and out."""
