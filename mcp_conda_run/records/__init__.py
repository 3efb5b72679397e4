"""What runs leave on record, and what can be made of it: the same run again, here or elsewhere."""
