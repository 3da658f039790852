"""Between messages and arrays, and what PyPI does not carry of ROS."""
