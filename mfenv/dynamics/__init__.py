"""How a population moves: the tiers, what a step leaves behind, and journals of runs."""
