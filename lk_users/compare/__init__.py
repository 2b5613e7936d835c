"""Did a change make it better? Runs against each other, with what chance alone would do."""
