"""Metrics of class activation maps: what they keep, where they point, whether they are stable."""
