"""Figures: benchmarks on real data, score sheets on simulated truth, peers."""
