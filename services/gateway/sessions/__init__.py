"""The gateway's side of a generation: place it, deliver its tokens once and in order, cancel it, move it on failure."""
