"""The engine on a GPU against what its memory and its matrix units allow, with random weights."""
