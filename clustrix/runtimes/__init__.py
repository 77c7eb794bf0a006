"""How an environment is put in place and started."""
