"""What a lab is, in no world in particular: topology, impairments, NAT, traffic, trace."""
