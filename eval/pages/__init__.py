"""Results as pages that open from a disk."""
