"""Subcommands of ``tupelo`` that this package brings. They import what is heavy when they run."""
