"""Training from photographs to a model: what ``agile-gym train`` runs, logs and reports."""
