"""What the stages share: lifecycle, topics, inputs kept by stamp, diagnostics, start-up."""
