"""Records: keys, outcomes, start markers and cancellations, over any store; each with its own rule for conflicts."""
