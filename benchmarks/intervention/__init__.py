"""What interventions achieve: paired counterfactuals, entries, scores, tables, reports."""
