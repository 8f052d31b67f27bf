"""The simulated world: SimPy's virtual time around the gateways that both worlds drive."""
