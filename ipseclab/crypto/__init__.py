"""Cryptographic transforms on pyca/cryptography, each algorithm a row in a table."""
