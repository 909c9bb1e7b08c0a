"""What a teacher predicts, computed once and kept."""
