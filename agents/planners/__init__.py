"""Planners: what chooses interventions."""
