"""The barrier: one T0 a round for all workers, and every one's last word. Pure state machines.

::

    worker → master   hello · ping · parked · built · decided · records · trailer
    master → worker   who · refused · pong · share · t0 · ack · look · collect · cancel · finish

A worker says hello when it connects, and again when the master asks who is there: before it places users.
The master gathers parked users, hands out shares, waits until they are built, and announces T0 as a point
on its own monotonic clock, far enough ahead that a late message does not matter. When every session is
decided, and only then, it lets the workers ask the API and clean up (``collect``). Each step has a
deadline; whoever misses it is lost, which voids the run but never holds it up.

So it goes round by round, as the run's course says (:mod:`lk_users.course`). A round that is smaller than
what is parked takes a part of each worker's users; a worker that has none of it is told nothing.

With ``--watch``, once nobody waits for a welcome any more, the workers ask the API a first time (``look``):
of a job that moves on to another worker later, only that look knows the first one.

``--release free`` has no T0: a worker gets an empty share of burst 0 with its first user, its users start
when Locust spawns them, and only the end of the run is common.

Messages are plain dictionaries that name run and burst, so that a late or repeated one is known as such.
One can be lost where a connection is made anew. So the master says ``share``, ``t0`` and ``collect`` again
to whoever has not reacted, and a worker that did answers again (``built``, ``decided``, ``trailer``).
Nothing here knows Locust, sockets or real time: calls take ``now_ns`` and return what to do.
"""
