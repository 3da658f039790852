"""A synthetic operating room: scenes, sensors and exact truth."""
