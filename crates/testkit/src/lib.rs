//! Sealed environments and the leak oracle, for tests only; uses no product code.
