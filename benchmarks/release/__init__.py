"""Whether mfenv can be released: what is built, installed into clean environments, and tried."""
