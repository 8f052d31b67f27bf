"""`python -m ipseclab` is the command `ipseclab`."""

from ipseclab.cli import main

if __name__ == "__main__":
    main()
