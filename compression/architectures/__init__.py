"""Support of each method for small models of many architectures."""
