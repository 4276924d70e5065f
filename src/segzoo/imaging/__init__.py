"""Images, masks and volumes: files <-> arrays, without torch."""
