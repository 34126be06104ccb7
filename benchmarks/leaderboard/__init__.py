"""The leaderboard: entries are checked, rerun in part, and shown on a static site."""
