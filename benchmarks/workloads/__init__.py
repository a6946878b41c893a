"""What is compared: each module has workloads of one kind."""
