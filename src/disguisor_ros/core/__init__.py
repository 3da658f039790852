"""Algorithms: arrays in, arrays out. Nothing here knows of ROS, messages or files."""
