"""One run held against an earlier one of the same experiment: what became slower, what faster."""
