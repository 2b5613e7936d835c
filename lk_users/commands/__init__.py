"""The subcommands of ``lk-users``, a module each. ``declare`` adds its arguments, and with them the function
that does it and returns the exit code."""
