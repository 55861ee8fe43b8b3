"""Fitting Gaussians to images."""
