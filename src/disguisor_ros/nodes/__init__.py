"""The stages as ROS 2 nodes, one module each."""
