"""The ROS 2 side of Mote, and the only room that imports rclpy."""
