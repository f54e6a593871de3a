"""Many groups behind one front: the simulation of who chooses the group, and what that costs."""
