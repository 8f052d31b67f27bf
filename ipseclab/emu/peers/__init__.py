"""Peers that no one here wrote, as nodes of the netns world."""
