"""Pure dialects: text in, text out."""
