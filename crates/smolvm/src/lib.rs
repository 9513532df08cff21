//! The smolvm library: sandboxes, their lifecycle and their removal.
