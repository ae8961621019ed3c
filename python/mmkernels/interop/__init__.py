"""Doors to other array libraries. A door is imported when the first array of its library is seen."""
