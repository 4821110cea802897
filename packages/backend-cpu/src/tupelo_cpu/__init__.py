"""Tupelo's backend for CPUs."""
