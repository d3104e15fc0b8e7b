"""Random expression trees."""

from hypothesis import strategies as st

from optishear.recipe.formula import BINARY, LEAVES, UNARY, Node


def trees():
    leaves = st.sampled_from(LEAVES).map(Node)
    return st.recursive(
        leaves,
        lambda below: st.one_of(
            st.builds(lambda w, a: Node(w, (a,)), st.sampled_from(UNARY), below),
            st.builds(lambda w, a, b: Node(w, (a, b)), st.sampled_from(BINARY), below, below),
        ),
        max_leaves=12,
    )
