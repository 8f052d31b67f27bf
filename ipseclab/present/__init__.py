"""What people look at: figures, tables, the ladder of a capture, what a machine can do."""
