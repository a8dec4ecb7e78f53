"""How well a map localizes: metrics, runs without and over ROS, the report."""
