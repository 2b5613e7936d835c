"""What is done before a run: look at an agent, at the target, at this machine."""
