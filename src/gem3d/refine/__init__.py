"""Local refinement: better poses from better maps, half against half."""
