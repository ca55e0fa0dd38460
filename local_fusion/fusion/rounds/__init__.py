"""Members that are asked again, with what everybody answered before in sight."""
