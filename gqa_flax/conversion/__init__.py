"""From multi-head to grouped-query attention, on arrays of parameters."""
