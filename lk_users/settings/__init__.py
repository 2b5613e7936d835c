"""What a run, a process and a target are set to: read once as frozen values, every fault listed at once.

Three kinds. *Run settings* come from the master and become one value at each ``test_start``: a Locust
worker overwrites its custom options with the master's at each spawn. *Process settings* are each
process's own. The *target* with its key and secret comes from each process's environment only, and never
is an option, since Locust sends options to workers in the clear.
"""
