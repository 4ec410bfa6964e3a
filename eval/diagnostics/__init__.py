"""What preference learning did to the likelihoods, and what a model really prefers."""
