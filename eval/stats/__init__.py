"""Who wins, and how sure that is."""
