"""The netns world: Mininet's hosts and links in a sandbox of namespaces, and real sockets."""
