"""The router's own record of a group, the pool it holds back, and what a policy may see."""
