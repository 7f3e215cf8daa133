//! BGP-4 wire format, session machine and RIB-out; sans-IO, knows nothing of load balancing.
