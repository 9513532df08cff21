//! Every effect smolvm has on the host, behind narrow functions.
