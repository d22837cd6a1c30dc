//! iroh and libp2p: one adapter each
