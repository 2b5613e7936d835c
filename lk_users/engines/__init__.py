"""The ways to take part in a session: each a thin use of :mod:`lk_users.wire` or of the SDK."""
