"""An IPsec lab: IKEv2 and ESP of its own, in a simulator and in real namespaces."""
