"""What has been counted: the board's figures as values, their history, and Prometheus' text."""
