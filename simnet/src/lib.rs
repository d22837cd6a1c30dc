//! A deterministic simulation of peers, links and liars
