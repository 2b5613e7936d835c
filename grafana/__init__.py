"""Grafana's part: dashboards made by code, and what Grafana is provisioned with.

``python -m grafana`` writes ``dashboards/*.json``; a test holds that they are what the code makes.
"""
