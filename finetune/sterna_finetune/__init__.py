"""Sterna's 1.58-bit fine-tuning recipe: train, export and evaluate ternary Llama-shaped models."""
