"""Who chooses interventions: planners by name, and what plays them in an environment."""

from agents.planners.base import Insider, Planner, affordable, build_planner

__all__ = ["Insider", "Planner", "affordable", "build_planner"]
