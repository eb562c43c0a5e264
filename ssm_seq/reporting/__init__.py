"""Figures and pages made from result files; no number is computed here."""
