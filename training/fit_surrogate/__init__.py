"""Fitting the surrogate tier: episodes are collected, a kernel is fitted, its fit is reported."""
