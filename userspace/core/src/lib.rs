//! Every decision of weir as pure functions and sans-IO machines.
